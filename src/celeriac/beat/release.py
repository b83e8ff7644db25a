"""Which release of an app declares its schedules: what all schedulers of the app agree on, in the store. Pure.

While a new version of an app is rolled out, schedulers of both versions run, and any of them may be started again. So a
scheduler that starts cannot tell from the entries whether it is the newer one. A *release* is what a version of the app
declares, named by a digest. The newest is the one in force, and the order in which releases came is recorded:

    it is in force                   it says every ten seconds that it runs
    it was never seen before         it is newer, and is put in force at once
    it was seen before               it is older, and waits; it is put in force when the one in force does not run

The last line is how a deployment is rolled back. The record also tells when the store has lost what it had: then there
is no record, or one with another mark.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from celeriac.beat.definition import RECORD
from celeriac.model.gate import reader
from celeriac.ports.schedules import Entry, Moment

__all__ = ["Release", "agreed", "decode_release", "ended", "entry_name", "marked", "release_entry"]

MOST = 20  # releases whose order is remembered
RUNS = 60_000  # milliseconds, for which a release counts as running after one of its schedulers has said so
RENEWED = 10_000  # milliseconds, after which one says so again
LEAVES = 5_000  # milliseconds, for which it counts as running when one of its schedulers was stopped

Digest = Annotated[bytes, Meta(min_length=16, max_length=16)]


class Release(msgspec.Struct, frozen=True):
    """The releases of an app."""

    digests: Annotated[list[Digest], Meta(min_length=1, max_length=MOST)]  # in their order; the last one is in force
    until: Moment  # it runs until then, as far as is known
    mark: bytes  # with another mark, schedulers compare all entries again

    @property
    def in_force(self) -> bytes:
        """The digest of the release in force."""
        return self.digests[-1]


def agreed(known: Release | None, lost: Release | None, digest: bytes, now: int) -> Release:
    """Return what the record becomes when a scheduler looks at it: `known` itself, if nothing has to be changed.

    `digest` is that of the scheduler's release, and `lost` the record that it saw last; it counts if there is none now.
    """
    if known is None:
        known = marked(lost or Release([digest], now, b""))
    if known.in_force == digest:
        return known if known.until - now > RUNS - RENEWED else replace(known, until=now + RUNS)
    if digest in known.digests and now < known.until:
        return known
    digests = [*(other for other in known.digests if other != digest), digest]
    return marked(Release(digests[-MOST:], now + RUNS, b""))


def marked(release: Release) -> Release:
    """Return a record after which all entries are compared again."""
    return replace(release, mark=os.urandom(8))


def ended(release: Release, now: int) -> Release:
    """Return a record when a scheduler of the release in force stops. Others of that release say soon that they run."""
    return replace(release, until=min(release.until, now + LEAVES))


def entry_name(app: str) -> str:
    """Return the name of an app's record, which is kept as an entry that is never due."""
    return f"{RECORD}{app}"


def release_entry(entry: Entry, release: Release) -> Entry:
    """Return the entry that holds a record."""
    return replace(entry, definition=msgspec.Raw(msgspec.msgpack.encode(release)))


decode_release: Callable[[bytes | memoryview], Release] = reader(Release, "what an app's schedulers have agreed on")
"""Return a record from the definition of its entry. Raises `Unreadable`."""
