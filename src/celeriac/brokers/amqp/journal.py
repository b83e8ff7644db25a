"""What everybody has to know, and AMQP keeps nowhere: which lines there are, which queues are paused, what is revoked.

Entries are published once, and go to a durable queue and to everybody who follows. Who begins to follow reads the
durable queue first: takes all that is in it (as its only consumer, so that no two read at once), drops what no longer
holds, and gives the rest back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

import msgspec
from pamqp import commands

from celeriac.brokers.amqp.background_jobs import PATIENCE
from celeriac.drivers.amqp.aio import AioConnection, Channel
from celeriac.drivers.amqp.error_translation import ChannelClosed
from celeriac.drivers.amqp.frames import Content, Publication, acknowledge, properties
from celeriac.drivers.amqp.server import Server, each
from celeriac.drivers.amqp.topology import Line
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock

__all__ = ["CHANNEL", "LOOKED_SECONDS", "Journal", "LineMade", "Looked", "Paused", "Revoked", "writing"]

CHANNEL = "journal"
MISSING = 404
IN_USE = 403  # how a server says that a queue has an exclusive consumer
PAUSE = (0.005, 0.03)  # seconds before it is tried again
MOMENT = 0.001  # seconds, in which the server pushes some more
LOOKED_SECONDS = 7 * 86400.0  # for which it is remembered that somebody has looked at a message


class LineMade(msgspec.Struct, tag="line", frozen=True):
    """A line was declared."""

    line: tuple[str, str, int | None]


class Paused(msgspec.Struct, tag="pause", frozen=True):
    """A queue was paused, or resumed."""

    queue: str
    paused: bool


class Revoked(msgspec.Struct, tag="revoke", frozen=True):
    """Tasks were revoked."""

    ids: list[str]
    until: float


class Looked(msgspec.Struct, tag="look", frozen=True):
    """Messages were looked at, which the server takes for deliveries: so many of each, or no more."""

    counts: dict[str, int]  # by id
    until: float


Entry = LineMade | Paused | Revoked | Looked
Errand = Callable[[Callable[[], Awaitable[None]]], None]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def writing(server: Server, entries: Sequence[Entry]) -> Generator[Any, Any, None]:
    """Write entries: a procedure."""
    topology = server.topology
    items = [Publication(topology.channels, CHANNEL, properties(), _encode(entry)) for entry in entries]
    for _ in range(2):
        if topology.journal not in server.declared:
            yield from each(topology.declare_journal(CHANNEL))
            server.declared.add(topology.journal)
        try:
            if not (yield items):
                return
        except ChannelClosed as error:
            if error.code != MISSING:
                raise
        server.declared.clear()  # it was deleted, or its exchange was
    raise BrokerError(f"The queue {topology.journal!r} cannot be made on RabbitMQ at {server.address}.")


class Journal:
    """What the journal says, kept up to date for as long as its connection stands."""

    def __init__(self, server: Server, clock: Clock, changed: Callable[[], None] | None = None,
                 errand: Errand | None = None) -> None:  # fmt: skip
        self.lines: set[Line] = set()
        self.paused: set[str] = set()
        self.revoked: dict[str, float] = {}
        self.looks: dict[str, int] = {}  # by id: how many of what the server takes for deliveries were none
        self._used: list[str] = []  # whose looks are to be forgotten by everybody
        self._server = server
        self._clock = clock
        self._changed = changed
        self._errand = errand

    async def follow(self, connection: AioConnection) -> None:
        """Begin to follow; return when what was there has been read."""
        topology = self._server.topology
        live = await connection.channel()
        live.on_content = lambda content: self._apply(_read(content))
        for method in topology.declare_journal(CHANNEL):
            await live.call(method)
        made = await live.call(commands.Queue.Declare(exclusive=True))
        await live.call(commands.Queue.Bind(queue=made.queue, exchange=topology.channels, routing_key=CHANNEL))
        await live.call(commands.Basic.Consume(queue=made.queue, no_ack=True))
        await self.read(connection)

    async def read(self, connection: AioConnection) -> None:
        """Read what is there."""
        async with asyncio.timeout(self._server.timeout):
            while True:
                channel = await connection.channel()
                try:
                    await self._read(channel)
                    return
                except ChannelClosed as error:
                    if error.code != IN_USE:
                        raise
                await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311 - somebody else is reading

    async def _read(self, channel: Channel) -> None:
        """Take everything, publishing nothing; drop what no longer holds, give back the rest."""
        found: list[tuple[int, Entry | None]] = []
        channel.on_content = lambda content: found.append((content.tag, _read(content)))
        journal = self._server.topology.journal
        await channel.call(commands.Basic.Consume(queue=journal, exclusive=True))
        while (await channel.call(commands.Queue.Declare(queue=journal, passive=True))).message_count:
            await asyncio.sleep(MOMENT)
        await channel.call(commands.Basic.Qos(prefetch_count=0))  # answered after all that has been pushed
        kept = _kept([entry for _, entry in found], self._clock.now())
        for (tag, entry), holds in zip(found, kept, strict=True):
            if holds:
                self._apply(entry)
            else:
                channel.tell(acknowledge(channel.number, tag, multiple=False))
        await channel.call(commands.Channel.Close(200, "", 0, 0))

    def forget_looks(self, id: str) -> None:
        """Let everybody know that looks at a message count no more: it was taken, or is gone."""
        if self.looks.pop(id, 0) and self._errand is not None:
            if not self._used:
                self._errand(self._tell_used)
            self._used.append(id)

    async def _tell_used(self) -> None:
        used = Looked(dict.fromkeys(self._used, 0), self._clock.now() + LOOKED_SECONDS)
        await self._server.ado(lambda: writing(self._server, [used]), PATIENCE)
        self._used = [id for id in self._used if id not in used.counts]
        if self._used and self._errand is not None:
            self._errand(self._tell_used)

    def _apply(self, entry: Entry | None) -> None:
        if isinstance(entry, LineMade):
            self.lines.add(Line(*entry.line))
        elif isinstance(entry, Paused):
            (self.paused.add if entry.paused else self.paused.discard)(entry.queue)
        elif isinstance(entry, Revoked):
            self.revoked.update(dict.fromkeys(entry.ids, entry.until))
        elif isinstance(entry, Looked):
            self.looks.update(entry.counts)
        if self._changed is not None:
            self._changed()


def _read(content: Content) -> Entry | None:
    try:
        entry: Entry = _decode(content.body)
    except msgspec.MsgspecError:
        return None
    return entry


def _kept(entries: Sequence[Entry | None], now: float) -> list[bool]:
    """Say of each entry whether it says anything that others do not say, or later ones take back."""
    last: dict[Any, int] = {}  # who speaks last of a queue, or a message
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
            holds = True  # of a later version
        kept.append(holds)
    return kept
