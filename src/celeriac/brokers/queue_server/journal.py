"""The journal: what workers must know and the server stores nowhere (lines, pauses, revocations, inspections).

Each entry is sent once, to a durable queue and to all followers. A new follower reads the durable queue first: as its
only reader it takes all entries, removes those that are obsolete, and puts the others back.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from celeriac.brokers.queue_server.background_jobs import PATIENCE
from celeriac.brokers.queue_server.topology import USUAL_PRIORITY, Line
from celeriac.brokers.queue_server.transport import Inspection, Procedure, Transport, WorkerConnection
from celeriac.model.clock import Clock
from celeriac.model.codec import Codec
from celeriac.model.gate import Instant, Name, reader
from celeriac.model.message import Priority
from celeriac.model.repeated_warnings import RepeatedWarnings

__all__ = ["LOOKED_SECONDS", "Journal", "LineMade", "Looked", "Paused", "Revoked", "writing"]

CHANNEL = "journal"
LOOKED_SECONDS = 7 * 86400.0  # for which an inspection of a message is remembered


class LineMade(msgspec.Struct, tag="line", frozen=True):
    """A line was declared."""

    line: tuple[Name, str, Priority | None]


class Paused(msgspec.Struct, tag="pause", frozen=True):
    """A queue was paused, or resumed."""

    queue: Name
    paused: bool


class Revoked(msgspec.Struct, tag="revoke", frozen=True):
    """Tasks were revoked."""

    ids: list[Name]
    until: Instant


class Looked(msgspec.Struct, tag="look", frozen=True):
    """Messages were inspected, which the server counts as deliveries: how often each; 0 ends this."""

    counts: dict[str, int]  # by id
    until: Instant


log = logging.getLogger("celeriac.brokers")

Entry = LineMade | Paused | Revoked | Looked
StartJob = Callable[[Callable[[], Awaitable[None]]], None]
_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes | memoryview], Entry] = reader(Entry, "an entry of the journal")


def writing(transport: Transport, entries: Sequence[Entry]) -> Procedure[None]:
    """Write entries: a procedure."""
    yield from transport.write_journal(CHANNEL, [_sealed(entry, transport.codec) for entry in entries])


class Journal:
    """The content of the journal; up to date while a connection follows it."""

    def __init__(self, transport: Transport, clock: Clock, changed: Callable[[], None] | None = None,
                 start_job: StartJob | None = None) -> None:  # fmt: skip
        self.lines: set[Line] = set()
        self.paused: set[str] = set()
        self.version = 0  # rises when the lines or the pauses have changed
        self.revoked: dict[str, float] = {}
        self.looks: dict[str, int] = {}  # by id: how many deliveries, as the server counts, were inspections
        self._looked_until: dict[str, float] = {}  # when these are forgotten; the soonest first
        self._warnings = RepeatedWarnings(log)
        self._used: list[str] = []  # ids of which all followers must forget the looks
        self._transport = transport
        self._clock = clock
        self._changed = changed
        self._start_job = start_job

    async def follow(self, connection: WorkerConnection) -> None:
        """Follow the journal; return when the present entries have been read."""
        await connection.follow(CHANNEL, lambda body: self._apply(self._read(body)))
        await self.read(connection)

    async def read(self, connection: WorkerConnection | Inspection) -> None:
        """Read the present entries, and remove obsolete ones."""
        await connection.read_journal(CHANNEL, self._keep)

    def _keep(self, bodies: list[bytes]) -> list[bool]:
        entries = [self._read(body) for body in bodies]
        kept = _kept(entries, self._clock.now())
        for entry, holds in zip(entries, kept, strict=True):
            if holds:
                self._apply(entry)
        return kept

    def _read(self, body: bytes) -> Entry | None:
        """Return an entry from its bytes; None if it is unreadable."""
        try:
            return _opened(body, self._transport.codec)
        except ValueError as error:
            self._warnings.warn("Entries of the journal are ignored: %s", error)
            return None

    def forget_looks(self, id: str) -> None:
        """Forget inspections of a message, here and at all followers: it was received, or is gone."""
        if not self.looks.pop(id, 0):
            return
        del self._looked_until[id]
        if self._start_job is not None:
            if not self._used:
                self._start_job(self._write_used)
            self._used.append(id)

    async def _write_used(self) -> None:
        ids, self._used = self._used, []
        try:
            await self.forgotten(ids)
        except BaseException:
            self._used = ids + self._used
            raise

    async def forgotten(self, ids: Sequence[str]) -> None:
        """Return when all followers are told to forget inspections of messages."""
        if ids:
            used = Looked(dict.fromkeys(ids, 0), self._clock.now() + LOOKED_SECONDS)
            await self._transport.ado(lambda: writing(self._transport, [used]), PATIENCE)

    def _apply(self, entry: Entry | None) -> None:
        if isinstance(entry, LineMade):
            line = Line(*entry.line)
            self.version += line not in self.lines and line.priority not in (None, USUAL_PRIORITY)
            self.lines.add(line)
        elif isinstance(entry, Paused):
            self.version += 1
            (self.paused.add if entry.paused else self.paused.discard)(entry.queue)
        elif isinstance(entry, Revoked):
            self.revoked.update(dict.fromkeys(entry.ids, entry.until))
        elif isinstance(entry, Looked):
            self._look(entry)
        if self._changed is not None:
            self._changed()

    def _look(self, entry: Looked) -> None:
        now, ends = self._clock.now(), self._looked_until
        over = list(takewhile(lambda id: ends[id] <= now, ends))
        for id in [*over, *entry.counts]:
            self.looks.pop(id, None)
            ends.pop(id, None)
        for id, count in entry.counts.items():
            if count > 0 and entry.until > now:
                self.looks[id], ends[id] = count, entry.until


def _sealed(entry: Entry, codec: Codec) -> bytes:
    """Return an entry as bytes. Callers declare lines; all other entries are operators' and workers'."""
    return codec.seal("line" if isinstance(entry, LineMade) else "journal", _encode(entry))


def _opened(body: bytes, codec: Codec) -> Entry | None:
    """Return an entry from its bytes; None if who signed it must not write it. Raises `Unreadable`."""
    try:
        return _decode(codec.open("journal", body))
    except ValueError:
        line = _decode(codec.open("line", body))
        return line if isinstance(line, LineMade) else None


def _kept(entries: Sequence[Entry | None], now: float) -> list[bool]:
    """Say of each entry whether it is needed: not expired, not repeated, and not cancelled by a later one."""
    last: dict[Any, int] = {}  # number of the last entry about a queue, or a message
    for number, entry in enumerate(entries):
        if isinstance(entry, Paused):
            last["paused", entry.queue] = number
        elif isinstance(entry, Looked):
            last.update(dict.fromkeys(entry.counts, number))
    said: set[Any] = set()
    kept: list[bool] = []
    for number, entry in enumerate(entries):
        if isinstance(entry, Revoked):
            holds = entry.until > now
        elif isinstance(entry, Paused):
            holds = entry.paused and last["paused", entry.queue] == number
        elif isinstance(entry, LineMade):
            holds = entry not in said
            said.add(entry)
        elif isinstance(entry, Looked):
            own = [id for id in entry.counts if last[id] == number]
            holds = entry.until > now and any(entry.counts[id] or id in said for id in own)
            said.update(entry.counts if holds else ())
        else:
            holds = True  # written by a later version
        kept.append(holds)
    return kept
