"""The broker in memory: the reference for the conformance suite, and the broker of tests.

It is written to be read: where another broker is faster, this one shows the meaning. It lives in one process, so its
workers must run in threads of that process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from msgspec.structs import replace as _replace

from celeriac.brokers.dead_workers import tell_returned
from celeriac.drivers.memory import Held, Store, store
from celeriac.drivers.memory_schedules import MemoryScheduleStore
from celeriac.errors import LeaseLost
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.gate import LARGEST
from celeriac.model.message import Message, published_again, too_large
from celeriac.ports.backend import Backend
from celeriac.ports.broker import Action, Broker, Claim, Delivery, Lease, Settlement, Slots
from celeriac.ports.operations import (
    Dead,
    Holder,
    Operations,
    QueueCounts,
    Removal,
    Waiting,
    WorkerInfo,
    anew,
    now_due,
)
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore
from celeriac.ports.workflows import Advance

__all__ = ["MemoryBroker", "MemoryLease", "MemoryOperations", "connect"]

BROADCAST_SECONDS = 60.0


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
                    self.shared.messages[id] = (age, _replace(message, due_at=None), deliveries)
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


class MemoryLease(Lease):
    """A lease is a number in the store; a token is this number, and that of the delivery."""

    def __init__(self, store: Store, clock: Clock, worker: WorkerInfo, seconds: float, max_deliveries: int,
                 result_expires: float | None, largest: int = LARGEST, adopted: int | None = None) -> None:  # fmt: skip
        self._store = store
        self._largest = largest
        self._clock = clock
        self._worker = worker
        self._seconds = seconds
        self._max_deliveries = max_deliveries
        self._result_expires = result_expires
        with store.lock:
            self._number = store.number() if adopted is None else adopted
            if adopted is None:
                self._stamp()
        self.name = str(self._number)

    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        deadline = self._clock.monotonic() + wait
        while True:
            generation = self._store.generation
            with self._store.lock:
                now = self._clock.now()
                taken = self._take(queues, slots)
                times = (message.due_at for _, message, _ in self._store.messages.values())
                due_in = min((time - now for time in times if time is not None and time > now), default=float("inf"))
            left = deadline - self._clock.monotonic()
            if taken or left <= 0:
                return taken
            await self._store.changed(generation, min(left, due_in))

    def _take(self, queues: Sequence[str], slots: Slots) -> list[Delivery]:
        self._prove()
        now = self._clock.now()
        due = sorted(
            (-message.priority, age, deliveries, message)  # ages differ, so that no message is compared
            for age, message, deliveries in self._store.messages.values()
            if message.queue in queues
            and message.queue not in self._store.paused
            and (message.due_at is None or message.due_at <= now)
        )
        free = dict(slots)
        due = [entry for entry in due if not self._put_aside(entry[-1], now)]
        taken = []
        for _, age, deliveries, message in due:
            if free.get(message.lane, 0) > 0:
                free[message.lane] -= 1
                del self._store.messages[message.id]
                revoked = self._store.revoked.get(message.id, 0.0) > now
                delivery = Delivery(message, self._token(), deliveries + 1, revoked=revoked)
                self._store.held[message.id] = Held(delivery, self._number, age)
                taken.append(delivery)
        return taken

    def _put_aside(self, message: Message, now: float) -> bool:
        """Make a dead letter of a message that is too large. Others encode messages, and look at all of its bytes."""
        if len(message.body) <= self._largest:
            return False
        reason = f"it cannot be read: {too_large(len(message.body), self._largest)}"
        del self._store.messages[message.id]
        self._store.dead[message.id] = Dead(message=message, reason=reason, at=now)
        return True

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        with self._store.lock:
            done = [self._settle(settlement) for settlement in settlements]
        self._store.ring()
        await asyncio.sleep(0)
        return done

    def _settle(self, settlement: Settlement) -> bool:
        id = settlement.delivery.message.id
        held = self._store.held.get(id)
        if held is None or held.lease != self._number or held.delivery.token != settlement.delivery.token:
            return False
        del self._store.held[id]
        now = self._clock.now()
        if settlement.action is Action.RETURN:
            message = settlement.message or settlement.delivery.message
            self._store.messages[id] = (held.age, message, settlement.deliveries)
        elif settlement.action is Action.BURY:
            self._store.dead[id] = Dead(message=settlement.delivery.message, reason=settlement.reason, at=now)
        outcome = settlement.outcome
        if outcome is not None and settlement.ends_node:
            if not self._store.conclude(outcome, settlement.leaves_pending, now):
                return True  # it has ended before, and everything that follows was done then
        elif outcome is not None and not self._store.keep(outcome, now):
            return True  # the same
        self._store.add(settlement.follow_ups)
        return True

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        now = self._clock.now()
        with self._store.lock:
            done = [self._store.advance(advance, now) for advance in advances]
            for advance, good in zip(advances, done, strict=True):
                if good:
                    self._store.add(advance.messages)
        self._store.ring()
        return done

    async def renew(self) -> None:
        with self._store.lock:
            self._prove()
            self._stamp()

    async def sweep(self) -> list[Delivery]:
        now = self._clock.now()
        taken: list[Delivery] = []
        returned: list[tuple[str, list[Message]]] = []
        with self._store.lock:
            self._prove()
            for lease, info in list(self._store.leases.items()):
                if info.expires_at < now and lease != self._number:
                    del self._store.leases[lease]
                    taken_over, messages = self._inherit(lease)
                    taken += taken_over
                    returned.append((info.name, messages))
            self._store.broadcasts = [entry for entry in self._store.broadcasts if entry[1] > now - BROADCAST_SECONDS]
            self._store.revoked = {id: until for id, until in self._store.revoked.items() if until > now}
            self._store.prune(now, self._result_expires)
        self._store.ring()
        for worker, messages in returned:
            tell_returned(worker, messages, len(messages))
        return taken

    def _inherit(self, lease: int) -> tuple[list[Delivery], list[Message]]:
        """Return what this worker takes over to settle, and what returned to the queues."""
        taken, returned = [], []
        for id, held in [(id, held) for id, held in self._store.held.items() if held.lease == lease]:
            message, deliveries = held.delivery.message, held.delivery.deliveries
            if message.acks_late and deliveries < self._max_deliveries:
                del self._store.held[id]
                self._store.messages[id] = (held.age, message, deliveries)
                returned.append(message)
            else:
                delivery = Delivery(message, self._token(), deliveries, lost=True)
                self._store.held[id] = Held(delivery, self._number, held.age)
                taken.append(delivery)
        return taken, returned

    async def end(self) -> None:
        with self._store.lock:
            info = self._store.leases.pop(self._number, None)
            for id, held in list(self._store.held.items()):
                if held.lease != self._number:
                    continue
                if not held.delivery.lost:
                    del self._store.held[id]
                    message, deliveries = held.delivery.message, held.delivery.deliveries
                    self._store.messages[id] = (held.age, message, deliveries - 1)
                elif info is not None:  # the next sweep takes it over again
                    self._store.leases[self._number] = _replace(info, expires_at=0.0)
        self._store.ring()

    async def held(self, claims: Sequence[Claim]) -> dict[str, Delivery]:
        with self._store.lock:
            found = [(claim, self._store.held.get(claim.id)) for claim in claims]
            return {
                claim.token: held.delivery
                for claim, held in found
                if held is not None
                and (held.lease, held.delivery.token) == (self._number, claim.token)
                and held.delivery.message.queue == claim.queue
            }

    def _token(self) -> str:
        return f"{self._number}:{self._store.number()}"

    def _prove(self) -> None:
        if self._number not in self._store.leases:
            raise LeaseLost

    def _stamp(self) -> None:
        now = self._clock.now()
        stamped = _replace(self._worker, renewed_at=now, expires_at=now + self._seconds)
        self._store.leases[self._number] = stamped


class MemoryOperations(Operations):
    """Inspects and operates the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def queues(self) -> list[QueueCounts]:
        places = [(where, message.queue) for where, message in self._places().values()]
        names = {queue for _, queue in places} | self._store.paused
        return [
            QueueCounts(
                queue=name,
                paused=name in self._store.paused,
                **{where: places.count((where, name)) for where in ("ready", "scheduled", "active", "dead")},
            )
            for name in sorted(names)
        ]

    async def peek(self, queue: str, limit: int, offset: int = 0) -> list[Message]:
        found = [
            (-message.priority, age, message)
            for age, message, _ in self._store.messages.values()
            if message.queue == queue and not self._waits(message)
        ]
        return [message for _, _, message in sorted(found)[offset : offset + limit]]

    async def heads(self, queue: str) -> list[Message]:
        found: dict[tuple[str, int], Message] = {}
        for message in await self.peek(queue, len(self._store.messages)):
            found.setdefault((message.lane, message.priority), message)
        return [*found.values()]

    async def scheduled(self, queue: str | None, limit: int, offset: int = 0) -> list[Message]:
        found = [
            (message.due_at or 0.0, age, message)
            for age, message, _ in self._store.messages.values()
            if queue in (None, message.queue) and self._waits(message)
        ]
        return [message for _, _, message in sorted(found)[offset : offset + limit]]

    async def find(self, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        places = self._places()
        return {id: places[id] for id in ids if id in places}

    async def holder(self, message: Message) -> Holder | None:
        with self._store.lock:
            held = self._store.held.get(message.id)
            worker = self._store.leases.get(held.lease) if held is not None else None
        if held is None or worker is None:
            return None
        return Holder(worker, worker.expires_at, held.delivery.deliveries)

    async def revoked(self, ids: Sequence[str]) -> set[str]:
        now = self._clock.now()
        return {id for id in ids if self._store.revoked.get(id, 0.0) > now}

    async def waiting(self, queue: str, limit: int) -> list[Waiting]:
        with self._store.lock:
            found = [message for _, message, _ in self._store.messages.values() if message.queue == queue][:limit]
        return [Waiting(message.id, message) for message in found]

    async def remove(self, queue: str, removals: Sequence[Removal]) -> list[bool]:
        with self._store.lock:
            done = [self._store.messages.pop(removal.key, None) is not None for removal in removals]
            for removal, gone in zip(removals, done, strict=True):
                if gone:
                    self._end(removal)
        self._store.ring()
        return done

    def _end(self, removal: Removal) -> None:
        outcome, now = removal.outcome, self._clock.now()
        if outcome is None:
            return
        if outcome.place is not None:
            is_new = self._store.conclude(outcome, removal.leaves_pending, now)
        else:
            is_new = self._store.keep(outcome, now)
        if is_new:
            self._store.add(removal.follow_ups)

    async def run_now(self, ids: Sequence[str]) -> int:
        with self._store.lock:
            found = [message for message in self._waiting(ids) if self._waits(message)]
            for message in found:
                age, _, deliveries = self._store.messages[message.id]
                self._store.messages[message.id] = (age, now_due(message), deliveries)
        self._store.ring()
        return len(found)

    async def move(self, ids: Sequence[str], queue: str) -> int:
        with self._store.lock:
            found = [message for message in self._waiting(ids) if message.queue != queue]
            for message in found:
                del self._store.messages[message.id]
            self._store.add([_replace(message, queue=queue) for message in found])
        self._store.ring()
        return len(found)

    def _waiting(self, ids: Sequence[str]) -> list[Message]:
        known = self._store.messages
        return [known[id][1] for id in dict.fromkeys(ids) if id in known]

    async def pause(self, queue: str) -> None:
        self._store.paused.add(queue)

    async def resume(self, queue: str) -> None:
        self._store.paused.discard(queue)
        self._store.ring()

    async def dead(self, queue: str | None, limit: int, offset: int = 0) -> list[Dead]:
        found = [letter for letter in self._store.dead.values() if queue in (None, letter.message.queue)]
        return sorted(found, key=lambda letter: letter.at)[::-1][offset : offset + limit]

    async def resend(self, ids: Sequence[str]) -> int:
        with self._store.lock:
            letters = [self._store.dead.pop(id) for id in ids if id in self._store.dead]
            for letter in letters:
                self._store.outcomes.pop(letter.message.id, None)
            self._store.add([anew(letter.message) for letter in letters])
        self._store.ring()
        return len(letters)

    async def drop(self, ids: Sequence[str]) -> int:
        with self._store.lock:
            return len([self._store.dead.pop(id) for id in ids if id in self._store.dead])

    async def workers(self) -> list[WorkerInfo]:
        now = self._clock.now()
        return [info for info in self._store.leases.values() if info.expires_at > now]

    def _waits(self, message: Message) -> bool:
        return message.due_at is not None and message.due_at > self._clock.now()

    def _places(self) -> dict[str, tuple[str, Message]]:
        with self._store.lock:
            return {
                **{
                    id: ("scheduled" if self._waits(message) else "ready", message)
                    for id, (_, message, _) in self._store.messages.items()
                },
                **{id: ("active", held.delivery.message) for id, held in self._store.held.items()},
                **{id: ("dead", letter.message) for id, letter in self._store.dead.items()},
            }


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None,
            codec: Codec = PLAIN_CODEC) -> MemoryBroker:  # fmt: skip
    """Return the broker for a `memory://name` URL."""
    return MemoryBroker(store(url.partition("://")[2]), clock, result_expires, codec)
