"""Schedules in the memory of one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from celeriac.drivers.memory.store import Store, Workflow
from celeriac.model.clock import Clock
from celeriac.ports.schedules import Change, Due, Entry, ScheduleStore, first_revision

__all__ = ["MemoryScheduleStore"]


class MemoryScheduleStore(ScheduleStore):
    """Entries in a dict."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, entries: Sequence[Entry]) -> list[bool]:
        with self._store.lock:
            new = [replace(entry, revision=first_revision()) for entry in entries]
            done = [self._store.schedules.setdefault(entry.name, entry) is entry for entry in new]
        self._store.ring()
        return done

    async def change(self, changes: Sequence[Change]) -> list[bool]:
        with self._store.lock:
            done = [self._change(change) for change in changes]
        self._store.ring()
        return done

    def _change(self, change: Change) -> bool:
        known = self._store.schedules.get(change.before.name)
        if known is None or known.revision != change.before.revision:
            return False
        self._store.schedules[known.name] = replace(change.after, revision=known.revision + 1)
        for plan in change.plans:
            self._store.workflows[plan.id] = Workflow(plan, self._clock.now())
        self._store.add(change.messages)
        return True

    async def remove(self, names: Mapping[str, int | None]) -> list[bool]:
        with self._store.lock:
            return [self._remove(name, revision) for name, revision in names.items()]

    def _remove(self, name: str, revision: int | None) -> bool:
        known = self._store.schedules.get(name)
        if known is None or revision not in (None, known.revision):
            return False
        del self._store.schedules[name]
        return True

    async def get(self, names: Sequence[str]) -> dict[str, Entry]:
        with self._store.lock:
            return {name: self._store.schedules[name] for name in names if name in self._store.schedules}

    async def page(self, after: str, limit: int) -> list[Entry]:
        with self._store.lock:
            names = sorted(name for name in self._store.schedules if name > after)
            return [self._store.schedules[name] for name in names[:limit]]

    async def due(self, limit: int) -> Due:
        now = int(self._clock.now() * 1000)
        with self._store.lock:
            waiting = sorted((entry.next_at, entry.name) for entry in self._store.schedules.values()
                             if entry.next_at is not None)  # fmt: skip
            found = [self._store.schedules[name] for next_at, name in waiting if next_at <= now][:limit]
        return Due(now, found, waiting[len(found)][0] if len(found) < len(waiting) else None)
