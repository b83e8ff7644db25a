"""The AMQP broker: publishing, revoking, broadcasting; `lease.py` has what workers do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Generator, Iterable, Sequence
from typing import Any

from pamqp import commands

from celeriac.brokers.amqp.envelope import Envelope, post
from celeriac.brokers.amqp.journal import LineMade, Revoked, writing
from celeriac.brokers.amqp.lease import AmqpLease
from celeriac.brokers.amqp.listener import Listener
from celeriac.brokers.amqp.operations import AmqpOperations
from celeriac.drivers.amqp.error_translation import ChannelClosed, Refused
from celeriac.drivers.amqp.frames import Publication, properties
from celeriac.drivers.amqp.server import Server, each, server
from celeriac.drivers.amqp.topology import Line
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock
from celeriac.model.message import Message
from celeriac.ports.abilities import Ability
from celeriac.ports.broker import Broker, Lease
from celeriac.ports.operations import Operations, WorkerInfo

__all__ = ["AmqpBroker", "connect"]

MISSING = 404
MANY = 2000  # messages that must be confirmed within the time-out


class AmqpBroker(Broker):
    """Messages in AMQP queues."""

    lacks = frozenset({Ability.KNOW_IDS, Ability.SEE_SCHEDULED, Ability.CLOCK_LEASES, Ability.JOIN_OUTCOMES})

    def __init__(self, server: Server, clock: Clock) -> None:
        self.server = server
        self.clock = clock

    # --- Publish --------------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Message]) -> None:
        if messages:
            self.server.do(_Sending(self, [Envelope(message) for message in messages]))

    async def apublish(self, messages: Sequence[Message], again: bool = False) -> None:
        for start in range(0, len(messages), MANY):
            await self.send([Envelope(message, again=again) for message in messages[start : start + MANY]])

    async def send(self, parcels: Sequence[Envelope], others: Sequence[Publication] = (),
                   within: float | None = None) -> None:  # fmt: skip
        """Publish parcels, and whatever else is addressed already; within the time-out, or so many seconds."""
        await self.server.ado(_Sending(self, parcels, others), within)

    def declare(self, lines: Iterable[Line], known: Container[Line] = ()) -> Generator[Any, Any, None]:
        """Make sure that lines are there, and that everybody knows (of all that is not known): a procedure.

        The journal is told first: a line that nobody knows of is served by nobody. Who finds one that somebody else
        has made cannot tell whether he came to say so, and says it again, once.
        """
        topology, declared = self.server.topology, self.server.declared
        fresh = [line for line in lines if line not in declared]
        missing = set()
        for line in fresh:
            topology.check(line.queue)
            if not (yield from _there(topology.name(line))):
                missing.add(line)
        news = [LineMade((line.queue, line.lane, line.priority)) for line in fresh if line not in known
                and (line in missing or line != topology.usual(line.queue, line.lane))]  # fmt: skip
        if news:
            yield from writing(self.server, news)
        for line in fresh:
            exchange, queue, bind = topology.declare(line)
            yield exchange
            if line in missing:
                yield queue
            yield bind
            declared.add(line)

    def declare_dead(self, queue: str) -> Generator[Any, Any, None]:
        """Make sure that a queue of dead letters is there: a procedure."""
        name = self.server.topology.dead(queue)
        if name not in self.server.declared:
            if not (yield from _there(name)):
                yield self.server.topology.declare_dead(queue)
            self.server.declared.add(name)

    # --- The rest of the port -------------------------------------------------------------------------

    async def lease(self, worker: WorkerInfo, seconds: float, max_deliveries: int) -> Lease:
        lease = AmqpLease(self, worker, seconds, max_deliveries)
        await lease.enter()
        return lease

    async def revoke(self, ids: Sequence[str], until: float) -> None:
        if ids:
            await self.server.ado(lambda: writing(self.server, [Revoked(list(ids), until)]))

    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        def broadcasting() -> Generator[Any, Any, None]:
            topology = self.server.topology
            if topology.channels not in self.server.declared:
                yield from each(topology.declare_channels())
                self.server.declared.add(topology.channels)
            yield [Publication(topology.channels, channel, properties(), payload, False) for payload in payloads]

        if payloads:
            try:
                await self.server.ado(broadcasting)
            except ChannelClosed as error:
                if error.code != MISSING:
                    raise
                self.server.declared.discard(self.server.topology.channels)  # it was deleted
                await self.server.ado(broadcasting)

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        listener = Listener(self.server, channel)
        await listener.open()
        return listener.listening()

    def operations(self) -> Operations:
        return AmqpOperations(self, self.clock)

    def close(self) -> None:
        self.server.close()

    def __repr__(self) -> str:
        return f"<AmqpBroker {self.server.address}>"


class _Sending:
    """The procedure of sending parcels. Begun again after a lost connection, they may have been sent before."""

    def __init__(self, broker: AmqpBroker, parcels: Sequence[Envelope], others: Sequence[Publication] = ()) -> None:
        self._broker = broker
        self._parcels = parcels
        self._others = others
        self._sent = False

    def __call__(self) -> Generator[Any, Any, None]:
        server = self._broker.server
        back = yield from self._first()
        if back and (back := (yield from self._what_came_back())):
            raise BrokerError(f"{len(back)} messages cannot be routed: RabbitMQ at {server.address} has no queue "
                              f"{back[0].routing_key!r}, and it cannot be made.")  # fmt: skip

    def _first(self) -> Generator[Any, Any, list[Publication]]:
        """Send all; return what came back, for its queue was deleted, and leave only that to be sent."""
        if self._sent:
            self._parcels = [parcel._replace(again=True) for parcel in self._parcels]
        items = self._items()
        yield from self._prepare()
        self._sent = True
        try:
            returned: list[Publication] = yield items
        except Refused as error:  # the others are there
            left = set(map(id, error.left))
            self._others = [item for item in items[len(self._parcels) :] if id(item) in left]
            self._parcels = [parcel for parcel, item in zip(self._parcels, items, strict=False) if id(item) in left]
            raise
        except ChannelClosed as error:
            if error.code != MISSING:
                raise
            return items  # an exchange was deleted; which of them had passed by then, nobody knows
        if returned:
            gone = {item.routing_key for item in returned}
            self._parcels = [parcel for parcel, item in zip(self._parcels, items, strict=False)
                             if item.routing_key in gone]  # fmt: skip
            self._others = [item for item in self._others if item.routing_key in gone]
            self._sent = False
        return returned

    def _what_came_back(self) -> Generator[Any, Any, list[Publication]]:
        """Make what was deleted, and send what came back; return what comes back again."""
        self._broker.server.declared.clear()
        return (yield from self._first())  # what is left

    def _items(self) -> list[Publication]:
        topology, now = self._broker.server.topology, self._broker.clock.now()
        return [*(post(parcel, topology, topology.line_of(parcel.message), now) for parcel in self._parcels),
                *self._others]  # fmt: skip

    def _prepare(self) -> Generator[Any, Any, None]:
        broker, server = self._broker, self._broker.server
        topology, declared = server.topology, server.declared
        fresh = {line for parcel in self._parcels if (line := topology.line_of(parcel.message)) not in declared}
        if fresh:
            yield from broker.declare(sorted(fresh))
        if topology.due not in declared and any(parcel.message.due_at is not None for parcel in self._parcels):
            yield from each(topology.declare_delays())
            declared.add(topology.due)
        for item in self._others:
            if item.routing_key.endswith("/dead"):
                yield from broker.declare_dead(item.routing_key.removesuffix("/dead"))


def _there(queue: str) -> Generator[Any, Any, bool]:
    """Say whether an AMQP queue exists, however it was declared: a procedure."""
    try:
        yield commands.Queue.Declare(queue=queue, passive=True)
    except ChannelClosed as error:
        if error.code != MISSING:
            raise
        return False
    return True


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, prefix: str = "celeriac",
            queue_type: str = "auto") -> AmqpBroker:  # fmt: skip
    """Return the broker of an `amqp://` URL."""
    return AmqpBroker(server(url, prefix, queue_type, timeout), clock)
