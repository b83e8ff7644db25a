"""The history in the memory of one process: the reference, and the history of tests."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import msgspec

from celeriac.drivers.memory.claims import MemoryClaimStore
from celeriac.model.filters import Filter
from celeriac.model.history import Attempt, Batch, Event, FailureSignature, Key, Status, samples_only
from celeriac.ports.claims import ClaimStore
from celeriac.ports.history import History, Limits, Position
from celeriac.ports.history_sums import Change, Row, WorkerState

__all__ = ["MemoryHistory"]


class MemoryHistory(History):
    """Dicts under one lock."""

    def __init__(self, claims: MemoryClaimStore | None = None) -> None:
        self._lock = threading.Lock()
        self._sums: dict[Key, bytes] = {}
        self._workers: dict[str, WorkerState] = {}
        self._attempts: dict[Position, Attempt] = {}
        self._signatures: dict[str, FailureSignature] = {}
        self._events: list[Event] = []
        self._claims = claims or MemoryClaimStore()

    async def record(self, batch: Batch, now: float) -> None:
        with self._lock:
            known = self._workers.get(batch.lease, WorkerState(0, 0, 0.0))
            self._workers[batch.lease] = WorkerState(max(known.complete, batch.complete), known.folded, now)
            for key, sums in batch.sums.items():
                if key.at > known.folded:
                    self._sums[key] = self.seal_sums(key, sums)
            for attempt in batch.attempts:
                self._attempts[Position(attempt.done_at, attempt.id, attempt.attempt)] = attempt
            for one in batch.signatures:
                before = self._signatures.get(one.signature)
                self._signatures[one.signature] = one if before is None else before.merged(one)
            self._events += [event for event in batch.events if event not in self._events]

    def claims(self) -> ClaimStore:
        return self._claims

    async def prune(self, limits: Limits, now: float) -> int:
        with self._lock:
            before = len(self._attempts) + len(self._events) + len(self._signatures)
            kept: dict[Position, Attempt] = {}
            for samples, seconds in ((True, limits.samples), (False, limits.failures)):
                some = sorted((at, one) for at, one in self._attempts.items() if samples_only(one) is samples)
                kept.update((at, one) for at, one in some[-limits.attempts :] if at.at >= now - seconds)
            self._attempts = kept
            self._events = [event for event in self._events if event.at >= now - limits.events]
            self._signatures = {
                name: one for name, one in self._signatures.items() if one.last >= now - limits.signatures
            }
            return before - len(self._attempts) - len(self._events) - len(self._signatures)

    # --- Rows of sums ---------------------------------------------------------------------------------

    async def rows(self, step: int, since: int, until: int, limit: int | None = None) -> list[Row]:
        with self._lock:
            keys = sorted(key for key in self._sums if key.step == step and since <= key.at < until and not key.lease)
            return [Row(key, self._sums[key]) for key in keys[:limit]]

    async def unfolded(self) -> list[Row]:
        with self._lock:
            return [Row(key, value) for key, value in self._sums.items() if key.lease]

    async def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        with self._lock:
            return {key: self._sums[key] for key in keys if key in self._sums}

    async def swap(self, changes: Sequence[Change], folded: Mapping[str, int]) -> bool:
        with self._lock:
            if any(self._sums.get(change.key) != change.before for change in changes):
                return False
            for change in changes:
                if change.after is None:
                    self._sums.pop(change.key, None)
                else:
                    self._sums[change.key] = change.after
            for lease, at in folded.items():
                known = self._workers.get(lease, WorkerState(0, 0, 0.0))
                self._workers[lease] = msgspec.structs.replace(known, folded=max(known.folded, at))
            return True

    async def workers(self) -> dict[str, WorkerState]:
        with self._lock:
            return dict(self._workers)

    # --- Front ends -----------------------------------------------------------------------------------

    async def attempts(self, filter: Filter, before: Position | None, limit: int) -> list[tuple[Position, bytes]]:
        with self._lock:
            found = sorted((at for at in self._attempts if before is None or at < before), reverse=True)[:limit]
            return [(at, self.seal(self._attempts[at])) for at in found]

    async def count_attempts(self) -> int:
        return len(self._attempts)

    async def attempts_of_task(self, id: str) -> list[bytes]:
        with self._lock:
            return [self.seal(attempt) for at, attempt in self._attempts.items() if at.id == id]

    async def known_signatures(self, signatures: Sequence[str] | None = None) -> list[FailureSignature]:
        with self._lock:
            found = [one for name, one in self._signatures.items() if signatures is None or name in signatures]
        return sorted(found, key=lambda one: one.last, reverse=True)

    async def mark(self, signature: str, status: Status, by: str, now: float) -> bool:
        with self._lock:
            known = self._signatures.get(signature)
            if known is not None:
                marks = {"status": status, "marked_at": now, "marked_by": by}
                self._signatures[signature] = msgspec.structs.replace(known, **marks)
            return known is not None

    async def audit(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)

    async def events(self, kinds: Sequence[str] = (), since: float = 0.0, limit: int = 100,
                     id: str | None = None) -> list[Event]:  # fmt: skip
        with self._lock:
            found = [
                event
                for event in self._events
                if (not kinds or event.kind in kinds) and event.at >= since and id in (None, event.id)
            ]
        return sorted(found, key=lambda event: event.at, reverse=True)[:limit]
