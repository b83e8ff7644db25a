"""The transport of AMQP 1.0: sending with outcomes, and making queues by attaching to them, as procedures.

A procedure yields nodes, lists of items and `Passive` questions, which `drivers.amqp10.server` carries out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from celeriac.brokers.amqp10.bookkeeping import Bookkeeping
from celeriac.brokers.amqp10.connections import Amqp10Inspection, Amqp10WorkerConnection
from celeriac.brokers.amqp10.taking import Delivered
from celeriac.brokers.amqp10.topology import Amqp10Topology
from celeriac.brokers.queue_server.envelope import Envelope, Parcel
from celeriac.brokers.queue_server.server_transport import Ended, ServerTransport
from celeriac.brokers.queue_server.topology import Line
from celeriac.brokers.queue_server.transport import Holds, Keep, Procedure, Unsent, unsent
from celeriac.drivers.amqp10.connection import Connection, Item
from celeriac.drivers.amqp10.error_translation import Refused
from celeriac.drivers.amqp10.messages import encode
from celeriac.drivers.amqp10.server import Passive, Server

__all__ = ["Amqp10Transport"]

log = logging.getLogger("celeriac.brokers")

LONGEST_SHOWN = 255  # characters


class Amqp10Transport(ServerTransport[Server, Amqp10Topology, Connection]):
    """A server of AMQP 1.0."""

    _told = False  # what a worker tells once

    @property
    def holds_delayed(self) -> Holds:
        return Holds.SAFELY if self.topology.dialect.delays else Holds.NEVER

    def names(self) -> Amqp10Topology:
        return Amqp10Topology.on(self.server)

    # --- Sending --------------------------------------------------------------------------------------

    def publish(self, envelopes: Sequence[Envelope], parcels: Sequence[Parcel], now: float,
                keep: Callable[[Unsent], None]) -> Procedure[Unsent | None]:  # fmt: skip
        items = [self._post(envelope, now) for envelope in envelopes]
        items += [Item(self.topology.queue(parcel.address), encode(parcel.body)) for parcel in parcels]

        def part(left: Callable[[Item], bool], doubtful: bool) -> Unsent:
            gone = [left(item) for item in items]
            address = next(item.node.address or "" for item, is_left in zip(items, gone, strict=True) if is_left)
            return unsent(envelopes, parcels, gone, doubtful, address)

        try:
            returned: list[Item] = yield items
        except Refused as error:
            if not error.missing:
                raise
            return part(lambda _: True, doubtful=True)  # a queue was deleted; the others may have their messages
        if not returned:
            return None
        back = set(map(id, returned))
        return part(lambda item: id(item) in back, doubtful=False)

    def _post(self, envelope: Envelope, now: float) -> Item:
        """Address an envelope to its line, with the time that the server is to hold it."""
        message, topology = envelope.message, self.topology
        seconds = envelope.seconds(now)
        hold: dict[str, float] = {}
        if seconds > 0:
            hold = {"delay": seconds} if topology.dialect.waits else {"at": time.time() + seconds}
        shown = not self.codec.encrypts and len(message.id) + len(message.task) < LONGEST_SHOWN
        data = encode(envelope.pack(self.codec), message.priority, message.id if shown else "",
                      message.task if shown else "", **hold)  # fmt: skip
        return Item(topology.queue(topology.address(topology.line_of(message))), data)

    def exists(self, address: str) -> Procedure[bool]:
        node = self.topology.dialect.existing(address)
        if node is None:
            return False  # to ask would make it
        found: bool = yield Passive(node)
        return found

    def declare(self, line: Line, missing: bool) -> Procedure[None]:
        yield self.topology.queue(self.topology.address(line))

    def declare_dead(self, queue: str) -> Procedure[None]:
        yield self.topology.queue(self.topology.dead(queue))

    def broadcast(self, channel: str, payloads: Sequence[bytes]) -> Procedure[None]:
        node, subject = self.topology.dialect.topic(self.topology.channel(channel))
        yield [Item(node, encode(payload, subject=subject)) for payload in payloads]

    def write_journal(self, channel: str, entries: Sequence[bytes]) -> Procedure[None]:
        yield [Item(self.topology.queue(self.topology.journal), encode(entry)) for entry in entries]
        yield from self.broadcast(channel, entries)

    def losses(self, pushed: Delivered) -> int | None:
        if pushed.failures or not pushed.redelivered or self.topology.dialect.counts:
            return pushed.failures
        return None

    # --- Connections ----------------------------------------------------------------------------------

    async def connect_worker(self, lease_seconds: float, name: str) -> Amqp10WorkerConnection:
        connection = await self.server.open(max(1.0, lease_seconds), name)  # proton asks the server for half
        if self.topology.dialect.leaves and not self._told:
            self._told = True
            log.info("%s does not delete the queues amq.gen-… of workers, commands and callers that have ended, unless "
                     "a policy tells it to: docs/brokers-amqp10.md", self.server)  # fmt: skip
        return Amqp10WorkerConnection(connection, self)

    async def follow(self, connection: Connection, channel: str, take: Callable[[bytes], None],
                     ended: Ended) -> None:  # fmt: skip
        topology = self.topology
        await connection.follow(topology.dialect.subscription(topology.channel(channel)), take, ended)

    async def read_journal(self, connection: Connection, channel: str, keep: Keep) -> None:
        await Bookkeeping(connection, self.topology).read_journal(keep)

    def inspection(self, connection: Connection) -> Amqp10Inspection:
        return Amqp10Inspection(connection, self)
