"""Inspecting and operating the memory broker: its queues, messages, dead letters and workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from celeriac.drivers.memory.store import Store
from celeriac.model.clock import Clock
from celeriac.model.message import Message
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

__all__ = ["MemoryOperations"]


class MemoryOperations(Operations):
    """Inspects and operates the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def queues(self) -> list[QueueCounts]:
        places = [(where, message.queue) for where, message in self._places().values()]
        names = {queue for _, queue in places} | self._store.paused
        counted: dict[str, dict[str, Any]] = {
            name: {where: places.count((where, name)) for where in ("ready", "scheduled", "active", "dead")}
            for name in names
        }
        return [QueueCounts(queue=name, paused=name in self._store.paused, **counted[name]) for name in sorted(names)]

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
            self._store.add([replace(message, queue=queue) for message in found])
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
