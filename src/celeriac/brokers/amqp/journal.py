"""What everybody has to know, and AMQP keeps nowhere: which lines there are, which queues are paused, what is revoked.

Entries are published once, and go to a durable queue and to everybody who follows. Who begins to follow reads the
durable queue first: takes all that is in it (as its only consumer, so that no two read at once), drops what no longer
holds, and gives the rest back.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any

import msgspec
from pamqp import commands

from celeriac.clock import Clock
from celeriac.drivers.amqp.aio import AioConnection, Channel
from celeriac.drivers.amqp.frames import Content, Publication, acknowledge, properties
from celeriac.drivers.amqp.refusals import ChannelClosed
from celeriac.drivers.amqp.server import Server, each
from celeriac.drivers.amqp.topology import Line
from celeriac.errors import BrokerError
from celeriac.message import new_id

__all__ = ["CHANNEL", "Journal", "LineMade", "Mark", "Paused", "Peeked", "Revoked", "writing"]

CHANNEL = "journal"
IN_USE = 403  # how a server says that a queue has an exclusive consumer
PAUSE = (0.005, 0.03)  # seconds before it is tried again


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


class Peeked(msgspec.Struct, tag="peek", frozen=True):
    """Messages were looked at, which the server counts as a delivery."""

    ids: list[str]
    until: float


class Mark(msgspec.Struct, tag="mark", frozen=True):
    """Whoever wrote it waits for it: then it has read what was before."""

    id: str


Entry = LineMade | Paused | Revoked | Peeked | Mark
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
        if not (yield items):
            return
        server.declared.clear()  # it was deleted
    raise BrokerError(f"The queue {topology.journal!r} cannot be made on RabbitMQ at {server.address}.")


class Journal:
    """What the journal says, kept up to date for as long as its connection stands."""

    def __init__(self, server: Server, clock: Clock, changed: Callable[[], None] | None = None) -> None:
        self.lines: set[Line] = set()
        self.paused: set[str] = set()
        self.revoked: dict[str, float] = {}
        self.peeked: Counter[str] = Counter()
        self._server = server
        self._clock = clock
        self._changed = changed

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
        """Take everything, up to a mark of our own; drop what no longer holds, give back the rest."""
        found: list[tuple[int, Entry | None]] = []
        mark, marked = Mark(new_id()), asyncio.Event()

        def take(content: Content) -> None:
            found.append((content.tag, _read(content)))
            if found[-1][1] == mark:
                marked.set()

        def failed(error: Exception) -> None:
            marked.set()

        channel.on_content, channel.on_failure = take, failed
        topology = self._server.topology
        await channel.call(commands.Basic.Consume(queue=topology.journal, exclusive=True))
        await channel.publish([Publication("", topology.journal, properties(), _encode(mark))])
        await marked.wait()
        if channel.failed is not None:
            raise channel.failed
        latest = {entry.queue: entry.paused for _, entry in found if isinstance(entry, Paused)}
        seen: set[Entry | str] = set()
        for tag, entry in found:
            if self._holds(entry, latest, seen):
                self._apply(entry)
            else:
                channel.tell(acknowledge(channel.number, tag, multiple=False))
        await channel.call(commands.Channel.Close(200, "", 0, 0))

    def _holds(self, entry: Entry | None, latest: dict[str, bool], seen: set[Entry | str]) -> bool:
        """Say whether an entry says anything that later ones do not take back."""
        if isinstance(entry, Revoked | Peeked):
            return entry.until > self._clock.now()
        if isinstance(entry, Paused):
            again = f"paused {entry.queue}" in seen
            seen.add(f"paused {entry.queue}")
            return latest[entry.queue] and entry.paused and not again
        if isinstance(entry, LineMade):
            again = entry in seen
            seen.add(entry)
            return not again
        return entry is None  # of a later version; a mark is no longer waited for

    def _apply(self, entry: Entry | None) -> None:
        if isinstance(entry, LineMade):
            self.lines.add(Line(*entry.line))
        elif isinstance(entry, Paused):
            (self.paused.add if entry.paused else self.paused.discard)(entry.queue)
        elif isinstance(entry, Revoked):
            self.revoked.update(dict.fromkeys(entry.ids, entry.until))
        elif isinstance(entry, Peeked):
            self.peeked.update(entry.ids)
        if self._changed is not None:
            self._changed()


def _read(content: Content) -> Entry | None:
    try:
        entry: Entry = _decode(content.body)
    except msgspec.MsgspecError:
        return None
    return entry
