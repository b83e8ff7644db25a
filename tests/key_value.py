"""Reference adapters: each base of backends, on a dict. And what those on servers have to show besides."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celeriac import states
from celeriac.backends.bases import AsyncBackend, SyncBackend
from celeriac.backends.key_value import KeyValueBackend
from celeriac.backends.key_value_workflows import KeyValueWorkflows
from celeriac.model.clock import Clock
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from tests.patience import PATIENCE

__all__ = ["AsyncDictBackend", "DictBackend", "DictWorkflows", "SyncDictBackend", "check_that_the_first_thread_wins"]


class DictBackend(KeyValueBackend):
    """A key-value store in a dict: each value with its version and the instant when it expires."""

    def __init__(self, clock: Clock, result_expires: float | None = 86400.0) -> None:
        super().__init__(clock, result_expires)
        self.values: dict[str, tuple[bytes, int, float]] = {}
        self.lock = threading.Lock()
        self.version = 0

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        with self.lock:
            return {key: found[0] for key in keys if (found := self._get(key)) is not None}

    def set(self, key: str, value: bytes, expires: float | None) -> None:
        with self.lock:
            self._set(key, value, expires)

    def add(self, key: str, value: bytes, expires: float | None) -> bool:
        with self.lock:
            absent = self._get(key) is None
            if absent:
                self._set(key, value, expires)
            return absent

    def delete_many(self, keys: Sequence[str]) -> None:
        with self.lock:
            for key in keys:
                self.values.pop(key, None)

    def close(self) -> None:
        pass

    def _get(self, key: str) -> tuple[bytes, int, float] | None:
        found = self.values.get(key)
        return found if found is not None and found[2] > self.clock.now() else None

    def _set(self, key: str, value: bytes, expires: float | None) -> None:
        self.version += 1
        self.values[key] = value, self.version, float("inf") if expires is None else self.clock.now() + expires


class DictWorkflows(DictBackend, KeyValueWorkflows):
    """The same, with compare-and-set."""

    lacks = KeyValueWorkflows.lacks

    def get_token(self, key: str) -> tuple[bytes, Any] | None:
        with self.lock:
            return self._get(key)[:2] if self._get(key) is not None else None  # type: ignore[index]

    def compare_and_set(self, key: str, value: bytes, token: Any, expires: float | None) -> bool:
        with self.lock:
            found = self._get(key)
            same = found is not None and found[1] == token
            if same:
                self._set(key, value, expires)
            return same


class _Outcomes:
    """Outcomes in a dict, as one client of a server would reach them."""

    clock: Clock

    def __init__(self) -> None:
        self.outcomes: dict[str, tuple[float, Outcome]] = {}
        self.lock = threading.Lock()

    def put(self, outcomes: Sequence[Outcome], now: float) -> list[bool]:
        with self.lock:
            done = []
            for outcome in outcomes:
                known = self.outcomes.get(outcome.id)
                done.append(known is None or not known[1].ready)
                if done[-1]:
                    self.outcomes[outcome.id] = now, outcome
            return done

    def get(self, ids: Sequence[str], final: bool, now: float) -> dict[str, Outcome]:
        known = {id: self.outcomes[id] for id in ids if id in self.outcomes}
        return {id: item for id, (at, item) in known.items() if at > now - 86400.0 and (item.ready or not final)}

    def drop(self, ids: Sequence[str]) -> None:
        for id in ids:
            self.outcomes.pop(id, None)


class SyncDictBackend(SyncBackend):
    """The least that a synchronous adapter implements."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.kept = _Outcomes()

    def save(self, outcomes: Sequence[Outcome]) -> list[bool]:
        return self.kept.put(outcomes, self.clock.now())

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        return self.kept.get(ids, final, self.clock.now())

    def forget(self, ids: Sequence[str]) -> None:
        self.kept.drop(ids)

    def close(self) -> None:
        pass


class AsyncDictBackend(AsyncBackend):
    """The least that an asynchronous adapter implements."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.kept = _Outcomes()

    async def asave(self, outcomes: Sequence[Outcome]) -> list[bool]:
        return self.kept.put(outcomes, self.clock.now())

    async def alook(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        return self.kept.get(ids, final, self.clock.now())

    async def aforget(self, ids: Sequence[str]) -> None:
        self.kept.drop(ids)

    def close(self) -> None:
        pass


def check_that_the_first_thread_wins(backend: KeyValueBackend) -> None:
    """Store final outcomes of one task in four threads at once, again and again: one is accepted, and it stays."""
    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            id = new_id()
            start = threading.Barrier(4)

            def one(number: int, id: str = id, start: threading.Barrier = start) -> tuple[bool, bytes]:
                mine = Outcome(id=id, task="t", state=states.SUCCESS, value=b"%d" % number)
                start.wait(PATIENCE)
                return backend.save([mine])[0], b"%d" % number

            [first] = [value for stored, value in pool.map(one, range(4)) if stored]
            assert backend.fetch([id])[id].value == first
