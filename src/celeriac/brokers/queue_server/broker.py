"""The broker of a queue server: what a protocol's own broker inherits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

from celeriac.brokers.queue_server.again import again_when_lost
from celeriac.brokers.queue_server.envelope import Envelope
from celeriac.brokers.queue_server.journal import Revoked, writing
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.brokers.queue_server.listener import Listener
from celeriac.brokers.queue_server.operations import QueueServerOperations
from celeriac.brokers.queue_server.sender import Sender
from celeriac.brokers.queue_server.transport import Transport
from celeriac.brokers.queue_server.waiting import WaitingMessages
from celeriac.model.clock import Clock
from celeriac.model.message import Message
from celeriac.ports.abilities import Ability
from celeriac.ports.broker import Broker, Lease
from celeriac.ports.delays import DelayStore
from celeriac.ports.operations import Operations, WorkerInfo

__all__ = ["QueueServerBroker"]

MANY = 2000  # messages that must be confirmed within the time-out


class QueueServerBroker(Broker):
    """Messages in the queues of a server, reached through a transport."""

    lacks = frozenset({Ability.KNOW_IDS, Ability.SEE_SCHEDULED, Ability.CLOCK_LEASES, Ability.JOIN_OUTCOMES})

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self.transport = transport
        self.clock = clock
        self.codec = transport.codec
        self.sender = Sender(transport, clock)

    def can(self, ability: Ability) -> bool:
        return super().can(ability) or (ability is Ability.SEE_SCHEDULED and self.sender.delays.is_used())

    def keep_delays_in(self, store: Callable[[], DelayStore], mode: str) -> None:
        self.sender.delays.use(store, mode)

    def publish(self, messages: Sequence[Message]) -> None:
        if messages:
            self.sender.publish([Envelope(message) for message in messages])

    async def apublish(self, messages: Sequence[Message], again: bool = False) -> None:
        for start in range(0, len(messages), MANY):
            await self.sender.send([Envelope(message, again=again) for message in messages[start : start + MANY]])

    @again_when_lost
    async def lease(self, worker: WorkerInfo, seconds: float, max_deliveries: int) -> Lease:
        lease = QueueServerLease(self.sender, worker, seconds, max_deliveries)
        await lease.begin()
        return lease

    async def revoke(self, ids: Sequence[str], until: float) -> None:
        if ids:
            await self.transport.ado(lambda: writing(self.transport, [Revoked(list(ids), until)]))
            if until > self.clock.now():
                await WaitingMessages(self.sender).send(ids, anew=False)

    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        if payloads:
            await self.sender.broadcast(channel, payloads)

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        listener = Listener(self.transport, channel)
        await listener.open()
        return listener.listening()

    def operations(self) -> Operations:
        return QueueServerOperations(self.sender)

    def close(self) -> None:
        self.transport.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.transport}>"
