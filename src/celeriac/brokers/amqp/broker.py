"""The AMQP broker: publishing, revoking, broadcasting; `lease.py` has what workers do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from celeriac.brokers.amqp.envelope import Envelope
from celeriac.brokers.amqp.journal import Revoked, writing
from celeriac.brokers.amqp.lease import AmqpLease
from celeriac.brokers.amqp.listener import Listener
from celeriac.brokers.amqp.operations import AmqpOperations
from celeriac.brokers.amqp.sender import Sender
from celeriac.drivers.amqp.server import Server, server
from celeriac.model.clock import Clock
from celeriac.model.message import Message
from celeriac.ports.broker import Ability, Broker, Lease
from celeriac.ports.operations import Operations, WorkerInfo

__all__ = ["AmqpBroker", "connect"]

MANY = 2000  # messages that must be confirmed within the time-out


class AmqpBroker(Broker):
    """Messages in AMQP queues."""

    lacks = frozenset({Ability.KNOW_IDS, Ability.SEE_SCHEDULED, Ability.CLOCK_LEASES})

    def __init__(self, server: Server, clock: Clock) -> None:
        self.server = server
        self.clock = clock
        self.sender = Sender(server, clock)

    # --- Publish --------------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Message]) -> None:
        if messages:
            self.sender.publish([Envelope(message) for message in messages])

    async def apublish(self, messages: Sequence[Message], again: bool = False) -> None:
        for start in range(0, len(messages), MANY):
            await self.sender.send([Envelope(message, again=again) for message in messages[start : start + MANY]])

    # --- The rest of the port -------------------------------------------------------------------------

    async def lease(self, worker: WorkerInfo, seconds: float, max_deliveries: int) -> Lease:
        lease = AmqpLease(self.sender, worker, seconds, max_deliveries)
        await lease.enter()
        return lease

    async def revoke(self, ids: Sequence[str], until: float) -> None:
        if ids:
            await self.server.ado(lambda: writing(self.server, [Revoked(list(ids), until)]))

    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        await self.sender.broadcast(channel, payloads)

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        listener = Listener(self.server, channel)
        await listener.open()
        return listener.listening()

    def operations(self) -> Operations:
        return AmqpOperations(self.sender)

    def close(self) -> None:
        self.server.close()

    def __repr__(self) -> str:
        return f"<AmqpBroker {self.server.address}>"


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, prefix: str = "celeriac",
            queue_type: str = "auto") -> AmqpBroker:  # fmt: skip
    """Return the broker of an `amqp://` URL."""
    return AmqpBroker(server(url, prefix, queue_type, timeout), clock)
