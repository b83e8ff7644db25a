"""The transport of AMQP 0-9-1: publishing with confirms, and declaring exchanges and queues, as procedures.

A procedure yields pamqp methods and lists of publications, which `drivers.amqp.server` sends.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

from pamqp import commands

from celeriac.brokers.amqp.connections import AmqpInspection, AmqpSubscription, AmqpWorkerConnection
from celeriac.brokers.amqp.topology import AmqpTopology
from celeriac.brokers.queue_server.envelope import Envelope, Parcel
from celeriac.brokers.queue_server.topology import Line
from celeriac.brokers.queue_server.transport import Holds, Inspection, Procedure, Transport, Unsent
from celeriac.drivers.amqp.error_translation import MISSING, ChannelClosed, Refused
from celeriac.drivers.amqp.frames import Publication, properties
from celeriac.drivers.amqp.server import Server, each
from celeriac.errors import BrokerError
from celeriac.model.codec import Codec
from celeriac.model.message import Message

__all__ = ["AmqpTransport", "post"]

Result = TypeVar("Result")
PLAIN_PROPERTIES = properties()


class AmqpTransport(Transport):
    """A RabbitMQ server, or another that speaks AMQP 0-9-1."""

    product = "RabbitMQ"

    def __init__(self, server: Server) -> None:
        self.server = server
        self.timeout = server.timeout
        self.codec = server.codec
        self.declared = server.declared
        self._topology: AmqpTopology | None = None

    @property
    def topology(self) -> AmqpTopology:
        if self._topology is None:
            self._topology = AmqpTopology.on(self.server)
        return self._topology

    @property
    def holds_delayed(self) -> Holds:
        return Holds.UNSAFELY if self.server.may_lose_delayed else Holds.SAFELY

    # --- Sending --------------------------------------------------------------------------------------

    def do(self, procedure: Callable[[], Procedure[Result]], within: float | None = None) -> Result:
        return self.server.do(procedure, within)

    async def ado(self, procedure: Callable[[], Procedure[Result]], within: float | None = None) -> Result:
        return await self.server.ado(procedure, within)

    def publish(self, envelopes: Sequence[Envelope], parcels: Sequence[Parcel], now: float,
                keep: Callable[[Unsent], None]) -> Procedure[Unsent | None]:  # fmt: skip
        topology = self.topology
        codec, line_of = self.codec, topology.line_of
        items = [post(envelope, topology, line_of(envelope.message), now, codec) for envelope in envelopes]
        items += [Publication("", parcel.address, PLAIN_PROPERTIES, parcel.body) for parcel in parcels]

        def part(left: Callable[[Publication], bool], doubtful: bool) -> Unsent:
            split = len(envelopes)
            return Unsent(
                [envelope for envelope, item in zip(envelopes, items, strict=False) if left(item)],
                [parcel for parcel, item in zip(parcels, items[split:], strict=True) if left(item)],
                doubtful, next(item.routing_key for item in items if left(item)),
            )  # fmt: skip

        try:
            returned: list[Publication] = yield items
        except Refused as error:  # the server has the others
            refused = set(map(id, error.left))
            keep(part(lambda item: id(item) in refused, doubtful=True))
            raise
        except ChannelClosed as error:
            if error.code != MISSING:
                raise
            # An exchange was deleted; which messages had passed by then is unknown.
            return part(lambda _: True, doubtful=True)
        if not returned:
            return None
        gone = {item.routing_key for item in returned}
        return part(lambda item: item.routing_key in gone, doubtful=False)

    def exists(self, address: str) -> Procedure[bool]:
        try:
            yield commands.Queue.Declare(queue=address, passive=True)
        except ChannelClosed as error:
            if error.code != MISSING:
                raise
            return False
        return True

    def declare(self, line: Line, missing: bool) -> Procedure[None]:
        topology = self.topology
        exchange, queue, bind = topology.declare(line)
        if topology.due not in self.declared:
            yield exchange
            self.declared.add(topology.due)
        if missing:
            yield queue
        try:
            yield bind
        except ChannelClosed as error:
            if error.code != MISSING:
                raise
            yield exchange  # it was deleted
            yield bind

    def declare_dead(self, queue: str) -> Procedure[None]:
        yield self.topology.declare_dead(queue)

    def declare_delays(self) -> Procedure[None]:
        yield from each(self.topology.declare_delays())

    def broadcast(self, channel: str, payloads: Sequence[bytes]) -> Procedure[None]:
        topology = self.topology
        items = [Publication(topology.channels, channel, PLAIN_PROPERTIES, payload, False) for payload in payloads]
        for last in (False, True):
            if topology.channels not in self.declared:
                yield from each(topology.declare_channels())
                self.declared.add(topology.channels)
            try:
                yield items
            except ChannelClosed as error:
                if error.code != MISSING or last:
                    raise
                self.declared.discard(topology.channels)  # it was deleted
            else:
                return

    def write_journal(self, channel: str, entries: Sequence[bytes]) -> Procedure[None]:
        topology = self.topology
        items = [Publication(topology.channels, channel, PLAIN_PROPERTIES, entry) for entry in entries]
        for _ in range(2):
            if topology.journal not in self.declared:
                yield from each(topology.declare_journal(channel))
                self.declared.add(topology.journal)
            try:
                if not (yield items):
                    return
            except ChannelClosed as error:
                if error.code != MISSING:
                    raise
            self.declared.clear()  # the queue was deleted, or its exchange was
        raise BrokerError(f"The queue {topology.journal!r} cannot be declared on {self}.")

    # --- Connections ----------------------------------------------------------------------------------

    async def learn(self) -> None:
        await self.server.learn()

    def answering(self, within: float | None = None) -> AbstractAsyncContextManager[None]:
        return self.server.answering(within)

    async def connect_worker(self, lease_seconds: float, name: str) -> AmqpWorkerConnection:
        connection = await self.server.open(max(1.0, lease_seconds / 2), name)
        try:
            async with self.answering():
                return await AmqpWorkerConnection.on(connection, self.topology, self.declared)
        except BaseException:
            connection.close()
            raise

    async def subscribe(self, channel: str, take: Callable[[bytes], None],
                        lost: Callable[[], None]) -> AmqpSubscription:  # fmt: skip
        await self.learn()
        connection = await self.server.open(60.0, f"celeriac listens to {channel}")
        try:
            async with self.answering():
                return await AmqpSubscription.on(connection, self.topology, channel, take, lost)
        except BaseException:
            connection.close()
            raise

    @asynccontextmanager
    async def inspecting(self) -> AsyncGenerator[Inspection, None]:
        connection = await self.server.open(60.0, "celeriac looks")
        try:
            yield AmqpInspection(connection, self.topology)
        finally:
            connection.close()

    def close(self) -> None:
        self.server.close()

    def __str__(self) -> str:
        return f"{self.product} at {self.server.address}"


def post(envelope: Envelope, topology: AmqpTopology, line: Line, now: float, codec: Codec) -> Publication:
    """Address an envelope: to its line, or to the delays before it."""
    message = envelope.message
    shown = _short(message) and not codec.encrypts
    marks = properties(message.priority, message.id, message.task) if shown else properties(message.priority)
    seconds = envelope.seconds(now) if message.due_at is not None else 0.0
    if seconds <= 0:
        return Publication("", topology.address(line), marks, envelope.pack(codec))
    exchange, key = topology.delayed(seconds, line)
    return Publication(exchange, key, marks, envelope.pack(codec))


def _short(message: Message) -> bool:
    """Say whether id and task fit into AMQP's properties, where management tools show them."""
    return len(message.id) < 64 and len(message.task) < 64
