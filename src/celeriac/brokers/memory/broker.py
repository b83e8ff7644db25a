"""Publishing to the store of this process, revoking, broadcasting and listening."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from msgspec.structs import replace

from celeriac.brokers.memory.lease import MemoryLease
from celeriac.brokers.memory.operations import MemoryOperations
from celeriac.drivers.memory.schedules import MemoryScheduleStore
from celeriac.drivers.memory.store import BROADCAST_SECONDS, Store, store
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.message import Message, published_again
from celeriac.ports.backend import Backend
from celeriac.ports.broker import Broker, Lease
from celeriac.ports.operations import Operations, WorkerInfo
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore

__all__ = ["MemoryBroker", "connect"]


class MemoryBroker(Broker, ScheduleKeeper):
    """Messages in a dict."""

    lacks = frozenset()

    def __init__(self, store: Store, clock: Clock, result_expires: float | None = 86400.0,
                 codec: Codec = PLAIN_CODEC) -> None:  # fmt: skip
        self.shared = store
        self.codec = codec
        self.clock = clock
        self.result_expires = result_expires

    def publish(self, messages: Sequence[Message]) -> None:
        with self.shared.lock:
            self.shared.add(messages)
        self.shared.ring()

    async def apublish(self, messages: Sequence[Message], again: bool = False) -> None:
        self.publish(published_again(messages) if again else messages)

    async def lease(self, worker: WorkerInfo, seconds: float, max_deliveries: int) -> Lease:
        return MemoryLease(self.shared, self.clock, worker, seconds, max_deliveries, self.result_expires,
                           self.codec.largest)  # fmt: skip

    def adopt(self, token: str, seconds: float) -> Lease | None:
        number = token.partition(":")[0]
        if not number.isdecimal() or len(number) > 20:
            return None
        worker = self.shared.leases.get(int(number), WorkerInfo(name=""))
        return MemoryLease(self.shared, self.clock, worker, seconds, 0, self.result_expires, self.codec.largest,
                           int(number))  # fmt: skip

    def joins(self, backend: Backend) -> bool:
        return getattr(backend, "shared", None) is self.shared

    async def revoke(self, ids: Sequence[str], until: float) -> None:
        with self.shared.lock:
            for id in ids:
                self.shared.revoked[id] = until
                if id in self.shared.messages:
                    age, message, deliveries = self.shared.messages[id]
                    self.shared.messages[id] = (age, replace(message, due_at=None), deliveries)
        self.shared.ring()

    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        with self.shared.lock:
            now = self.clock.now()
            self.shared.broadcasts += [(self.shared.number(), now, channel, payload) for payload in payloads]
        self.shared.ring()

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        return self._listen(channel, self.shared.count)

    async def _listen(self, channel: str, seen: int) -> AsyncIterator[bytes]:
        while True:
            generation = self.shared.generation
            with self.shared.lock:
                news = [entry for entry in self.shared.broadcasts if entry[0] > seen and entry[2] == channel]
            for number, _, _, payload in news:
                seen = number
                yield payload
            if not news:
                await self.shared.changed(generation, BROADCAST_SECONDS)

    def schedules(self) -> ScheduleStore:
        return MemoryScheduleStore(self.shared, self.clock)

    def operations(self) -> Operations:
        return MemoryOperations(self.shared, self.clock)

    def close(self) -> None:
        pass


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None,
            codec: Codec = PLAIN_CODEC) -> MemoryBroker:  # fmt: skip
    """Return the broker for a `memory://name` URL."""
    return MemoryBroker(store(url.partition("://")[2]), clock, result_expires, codec)
