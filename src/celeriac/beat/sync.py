"""Brings what code declares into the store of schedules. Each scheduler has one `Sync`, and asks it before it sends.

An entry that has changed keeps its cursor, unless it has another schedule now; an entry that this app declares no more
is removed; those made by hand are never touched. Only schedulers of the release in force do so (`release.py`). One that
starts compares all entries; so do all of them when the record says so, and when the store has lost it.

Work is cut into slices of some milliseconds, between which the event loop runs: a worker's, or that of users.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from hashlib import blake2b

from celeriac.beat.declared import Declared
from celeriac.beat.definition import CODE, decode_definition, read_origin
from celeriac.beat.release import Release, agreed, decode_release, ended, entry_name, marked, release_entry
from celeriac.model.gate import Unreadable
from celeriac.ports.schedules import Change, Entry, ScheduleStore

__all__ = ["Sync"]

log = logging.getLogger("celeriac.beat")

BATCH = 500  # entries in one step
MADE = 100  # definitions in one step
LOOKS = 1.0  # seconds between looks at the record


class Sync:
    """Keeps the store up to date with what one app declares."""

    def __init__(self, declared: Declared) -> None:
        self._declared = declared
        self._schedules = declared.schedules
        self._wanted: dict[str, bytes] = {}  # the definition of each entry
        self._digest = b""  # of all of them; empty until they were made
        self._seen: Release | None = None
        self._mark = b""  # of the record when the entries were compared last
        self._complete = False  # none is missing, unless the store has lost it
        self._looks_at = 0.0  # monotonic
        self._waits = False

    def after_outage(self) -> None:
        """Add at the next turn what is missing: a server may have come back without its data."""
        self._complete = False
        self._looks_at = 0.0

    async def turn(self, store: ScheduleStore, now: int) -> bool:
        """Look at the record, once a second, and do what it calls for. Return whether entries may have changed.

        `now` is milliseconds by the store's clock. Raises `ImproperlyConfigured` for what cannot be declared.
        """
        if time.monotonic() < self._looks_at:
            return False
        if not self._digest:
            await self._prepare()
        release = await self._agree(store, now)
        self._looks_at = time.monotonic() + LOOKS
        if release.in_force != self._digest:
            self._wait()
            return False
        self._waits = False
        if release.mark == self._mark and self._complete:
            return False
        await self._bring(store, edits=release.mark != self._mark)
        self._mark, self._complete = release.mark, True
        await self._check(store)
        return True

    async def leave(self, store: ScheduleStore, now: int) -> None:
        """Say that this scheduler stops, so that another release need not wait long if it was the last of its own."""
        if self._seen is not None and self._seen.in_force == self._digest:
            entry, release = await self._read(store)
            if entry is not None and release is not None and release.in_force == self._digest:
                await store.change([Change(before=entry, after=release_entry(entry, ended(release, now)))])

    # --- What is declared -----------------------------------------------------------------------------

    async def _prepare(self) -> None:
        wanted: dict[str, bytes] = {}
        for name, definition in self._declared.definitions():
            wanted[name] = definition
            if len(wanted) % MADE == 0:
                await asyncio.sleep(0)
        digest = blake2b(digest_size=16)
        for number, (name, definition) in enumerate(sorted(wanted.items())):
            digest.update(b"%s\0%d\0%s" % (name.encode(), len(definition), definition))
            if number % BATCH == 0:
                await asyncio.sleep(0)
        self._wanted, self._digest = wanted, digest.digest()

    # --- Which release is in force --------------------------------------------------------------------

    async def _agree(self, store: ScheduleStore, now: int) -> Release:
        """Return the record, after it was changed if need be."""
        while True:
            entry, known = await self._read(store)
            release = agreed(known, self._seen, self._digest, now)
            if release is known or await self._write(store, entry, release):
                self._seen = release
                return release

    async def _read(self, store: ScheduleStore) -> tuple[Entry | None, Release | None]:
        name = entry_name(self._declared.main)
        entry = (await store.get([name])).get(name)
        if entry is None:
            return None, None
        try:
            return entry, decode_release(entry.definition)
        except Unreadable as error:
            log.warning("The record of the releases of %r is unreadable, and is made again: %s",
                        self._declared.main, error)  # fmt: skip
            return entry, None

    async def _write(self, store: ScheduleStore, entry: Entry | None, release: Release) -> bool:
        """Replace the record as it was read. Return False if another scheduler was faster."""
        if entry is not None:
            (done,) = await store.change([Change(before=entry, after=release_entry(entry, release))])
            return done
        name = entry_name(self._declared.main)
        (done,) = await store.create([release_entry(Entry(name=name, cursor=0), release)])
        if not done and not await store.get([name]):
            await store.remove({name: None})  # it is there, and unreadable
        return done

    def _wait(self) -> None:
        if not self._waits:
            log.warning("A newer release of %r declares other schedules, and these are in force. This scheduler sends "
                        "them; what it declares itself is in force again when no scheduler of that release runs.",
                        self._declared.main)  # fmt: skip
        self._waits = True
        self._mark = b""

    async def _check(self, store: ScheduleStore) -> None:
        """If another release was put in force while this one's entries were brought, have that one compare again."""
        while True:
            entry, release = await self._read(store)
            if entry is None or release is None or release.in_force == self._digest:
                return
            if await self._write(store, entry, marked(release)):
                return

    # --- Entries --------------------------------------------------------------------------------------

    async def _bring(self, store: ScheduleStore, edits: bool) -> None:
        """Bring the store up to date. Without `edits`, only add what is missing: changes by hand stay."""
        missing = dict(self._wanted)
        page = await store.page("", BATCH)
        while page:
            known = [(entry, missing.pop(entry.name, None)) for entry in page]
            if edits:
                await self._remove(store, [entry for entry, wanted in known if wanted is None])
                await self._change(store, [entry for entry, wanted in known if wanted is not None])
            await asyncio.sleep(0)
            page = await store.page(page[-1].name, BATCH)
        names = list(missing)
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            entries = [self._schedules.entry(name, decode_definition(missing[name])) for name in batch]
            created = await store.create(entries)
            taken = [name for name, done in zip(batch, created, strict=True) if not done]
            if taken and edits:  # by another scheduler
                await self._change(store, list((await store.get(taken)).values()))
            await asyncio.sleep(0)

    async def _remove(self, store: ScheduleStore, entries: Sequence[Entry]) -> None:
        """Remove the entries that this app has declared."""
        while gone := {entry.name: entry.revision for entry in entries if self._is_mine(entry)}:
            done = await store.remove(gone)
            changed = [name for name, good in zip(gone, done, strict=True) if not good]
            entries = list((await store.get(changed)).values())  # a tick was sent, or a person was faster

    async def _change(self, store: ScheduleStore, entries: Sequence[Entry]) -> None:
        """Change the entries that are not as declared."""
        while True:
            changes = [change for entry in entries if (change := self._edit(entry)) is not None]
            if not changes:
                return
            done = await store.change(changes)
            failed = [change.before.name for change, good in zip(changes, done, strict=True) if not good]
            entries = list((await store.get(failed)).values())  # another scheduler was faster: compare again

    def _edit(self, entry: Entry) -> Change | None:
        """Return the change that an entry needs, if it needs one."""
        wanted = self._wanted[entry.name]
        if bytes(entry.definition) == wanted:
            return None
        with contextlib.suppress(Unreadable):
            if read_origin(entry.definition).origin != CODE:
                log.warning("The schedule %s is declared, but one made by hand has its name, and stays", entry.name)
                return None
        return Change(before=entry, after=self._schedules.redefined(entry, decode_definition(wanted)))

    def _is_mine(self, entry: Entry) -> bool:
        try:
            made = read_origin(entry.definition)
        except Unreadable:
            return False
        return made.origin == CODE and made.app == self._declared.main
