"""The transport of AMQP 0-9-1: publishing with confirms, and declaring exchanges and queues, as procedures.

A procedure yields pamqp methods and lists of publications, which `drivers.amqp.server` sends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pamqp import commands

from celeriac.brokers.amqp.connections import AmqpInspection, AmqpWorkerConnection
from celeriac.brokers.amqp.journal_reading import read_journal
from celeriac.brokers.amqp.topology import AmqpTopology
from celeriac.brokers.queue_server.envelope import Envelope, Parcel
from celeriac.brokers.queue_server.server_transport import Ended, ServerTransport
from celeriac.brokers.queue_server.topology import Line
from celeriac.brokers.queue_server.transport import Holds, Keep, Procedure, Unsent, unsent
from celeriac.drivers.amqp.aio import AioConnection
from celeriac.drivers.amqp.error_translation import MISSING, ChannelClosed, Refused
from celeriac.drivers.amqp.frames import Content, Publication, properties
from celeriac.drivers.amqp.server import Server, each
from celeriac.errors import BrokerError
from celeriac.model.codec import Codec
from celeriac.model.message import Message

__all__ = ["AmqpTransport", "post"]

PLAIN_PROPERTIES = properties()


class AmqpTransport(ServerTransport[Server, AmqpTopology, AioConnection]):
    """A RabbitMQ server, or another that speaks AMQP 0-9-1."""

    @property
    def counts_held(self) -> bool:  # type: ignore[override]
        return self.topology.dialect.counts_held

    @property
    def holds_delayed(self) -> Holds:
        # What Broker-J holds, no test has seen yet; and it counts it among what waits for workers.
        return Holds.UNSAFELY if self.server.may_lose_delayed or not self.topology.dialect.cascades else Holds.SAFELY

    def names(self) -> AmqpTopology:
        return AmqpTopology.on(self.server)

    # --- Sending --------------------------------------------------------------------------------------

    def publish(self, envelopes: Sequence[Envelope], parcels: Sequence[Parcel], now: float,
                keep: Callable[[Unsent], None]) -> Procedure[Unsent | None]:  # fmt: skip
        topology = self.topology
        codec, line_of = self.codec, topology.line_of
        items = [post(envelope, topology, line_of(envelope.message), now, codec) for envelope in envelopes]
        items += [Publication("", parcel.address, PLAIN_PROPERTIES, parcel.body) for parcel in parcels]

        def part(left: Callable[[Publication], bool], doubtful: bool) -> Unsent:
            gone = [left(item) for item in items]
            address = next(item.routing_key for item, is_left in zip(items, gone, strict=True) if is_left)
            return unsent(envelopes, parcels, gone, doubtful, address)

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
        queue, *delays = topology.declare(line)
        if missing:
            yield queue
        if not delays:
            return
        exchange, bind = delays
        if topology.due not in self.declared:
            yield exchange
            self.declared.add(topology.due)
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

    def losses(self, pushed: Content) -> int | None:
        """Return a quorum queue's count. Its messages show the type of a queue, which others may have declared.

        Other queues pass on what a sender has written there: nothing else than a count is taken for one.
        """
        if not pushed.redelivered:
            return 0
        try:
            counted = pushed.headers().get("x-delivery-count")
        except Exception:  # noqa: BLE001 - a broken table raises anything
            return None
        return counted if type(counted) is int and counted >= 0 else None

    # --- Connections ----------------------------------------------------------------------------------

    async def connect_worker(self, lease_seconds: float, name: str) -> AmqpWorkerConnection:
        connection = await self.server.open(max(1.0, lease_seconds / 2), name)
        try:
            async with self.answering():
                return AmqpWorkerConnection(connection, self, await connection.channel())
        except BaseException:
            connection.close()
            raise

    async def follow(self, connection: AioConnection, channel: str, take: Callable[[bytes], None],
                     ended: Ended) -> None:  # fmt: skip
        """Consume from a queue of our own that is bound to a channel's name."""
        topology, opened = self.topology, await connection.channel()
        opened.on_content = lambda content: take(content.body)
        for declaration in topology.declare_channels():
            await opened.call(declaration)
        made = await opened.call(commands.Queue.Declare(exclusive=True))
        await opened.call(commands.Queue.Bind(queue=made.queue, exchange=topology.channels, routing_key=channel))
        await opened.call(commands.Basic.Consume(queue=made.queue, no_ack=True))
        opened.tell_end(ended)

    async def read_journal(self, connection: AioConnection, channel: str, keep: Keep) -> None:
        await read_journal(connection, self.topology, channel, keep)

    def inspection(self, connection: AioConnection) -> AmqpInspection:
        return AmqpInspection(connection, self)


def post(envelope: Envelope, topology: AmqpTopology, line: Line, now: float, codec: Codec) -> Publication:
    """Address an envelope: to its line, or to the delays before it."""
    message = envelope.message
    shown = _short(message) and not codec.encrypts
    marks = properties(message.priority, message.id, message.task) if shown else properties(message.priority)
    seconds = envelope.seconds(now) if message.due_at is not None else 0.0
    if seconds <= 0:
        return Publication("", topology.address(line), marks, envelope.pack(codec))
    if not topology.dialect.cascades:
        held = topology.dialect.hold(time.time() + seconds)
        marks = properties(message.priority, *((message.id, message.task) if shown else ("", "")), headers=held)
        return Publication("", topology.address(line), marks, envelope.pack(codec))
    exchange, key = topology.delayed(seconds, line)
    return Publication(exchange, key, marks, envelope.pack(codec))


def _short(message: Message) -> bool:
    """Say whether id and task fit into AMQP's properties, where management tools show them."""
    return len(message.id) < 64 and len(message.task) < 64
