"""What a worker holds in memory: receiving, settling, renewing and sweeping."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from celeriac.brokers.dead_workers import tell_returned
from celeriac.drivers.memory.store import BROADCAST_SECONDS, Held, Store
from celeriac.errors import LeaseLost
from celeriac.model.clock import Clock, Steps
from celeriac.model.gate import LARGEST
from celeriac.model.message import Message, too_large
from celeriac.ports.broker import Action, Claim, Delivery, Lease, Settlement, Slots
from celeriac.ports.operations import Dead, WorkerInfo
from celeriac.ports.workflows import Advance

__all__ = ["MemoryLease"]


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
        self._steps = Steps(clock)
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
        leave_alone = self._steps.within(self._seconds)  # their workers have not renewed them by this clock
        taken: list[Delivery] = []
        returned: list[tuple[str, list[Message]]] = []
        with self._store.lock:
            self._prove()
            for lease, info in list(self._store.leases.items()):
                if info.expires_at < now and lease != self._number and not leave_alone:
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
                    self._store.leases[self._number] = replace(info, expires_at=0.0)
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
        stamped = replace(self._worker, renewed_at=now, expires_at=now + self._seconds)
        self._store.leases[self._number] = stamped
