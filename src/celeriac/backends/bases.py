"""Bases of backends: what an adapter does not implement itself.

| base | the adapter implements | the base derives |
|---|---|---|
| `WaitingBackend` | `store`, `look`, `watch`, `forget`, `aforget` | waiting, by looking again when notified |
| `PollingBackend` | `asave`, `look`, `alook`, `forget`, `aforget` | waiting, by polling; local notification |
| `SyncBackend` | `save`, `look`, `forget` | the same, and the asynchronous side, in threads |
| `AsyncBackend` | `asave`, `alook`, `aforget` | the same, and the synchronous side |

Each leaves `close` to the adapter. `recent` raises `NotSupported` unless the adapter overrides it.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Protocol

from msgspec.structs import replace

from celeriac import states
from celeriac.drivers.bell import Bell
from celeriac.errors import BackendError, NotSupported
from celeriac.model.clock import Clock
from celeriac.model.codec import Codec
from celeriac.model.failure import Failure
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability
from celeriac.ports.backend import Backend
from celeriac.ports.complete import complete, in_thread, sleep
from celeriac.ports.workflows import KEEPERS

__all__ = ["AsyncBackend", "PollingBackend", "SyncBackend", "WaitingBackend", "Watch", "encoded_within",
           "without_value"]  # fmt: skip

log = logging.getLogger("celeriac.backends")

FIRST_PAUSE = 0.005  # seconds between two looks of a caller that waits; doubled after each look …
LONGEST_PAUSE = 0.25  # … up to this
RELAXED_PAUSE = 2.0  # the longest where workers tell callers of ends, and so polling finds what they do not …
RELAXING = 8.0  # … but at most this part of the time that the caller has waited: an eighth
FEW = 32  # tasks; a caller that waits for more …
PAUSE_PER_ID = 2e-5  # … sleeps so many seconds for each, before each look


class Watch(Protocol):
    """Tells waiting callers that outcomes may have been stored."""

    @property
    def generation(self) -> int:
        """A number that changes with each notification."""

    def wait(self, seen: int, timeout: float) -> None:
        """Block until notified after generation `seen`, or until the time-out (seconds). May return early."""

    async def changed(self, seen: int, timeout: float) -> None:
        """Coroutine version of `wait`."""


class WaitingBackend(Backend):
    """Waits by looking, and looking again when its `watch` notifies it."""

    clock: Clock

    @abstractmethod
    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        """Return the known outcomes of these tasks, by id; with `final`, only final ones. Do not wait."""

    async def alook(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        """Coroutine version of `look`. Override it if `look` blocks."""
        return self.look(ids, final)

    @abstractmethod
    def watch(self, ids: Sequence[str]) -> Watch:
        """Return what notifies a caller that begins to wait for these tasks."""

    def unwatch(self, watch: Watch) -> None:
        """Note that the caller no longer waits."""

    def pause(self, ids: Sequence[str]) -> float:
        """Return how long (seconds) a waiting caller sleeps before each look, to limit the cost of large looks."""
        return 0.0

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        if not ids or wait <= 0:
            return self.look(ids, False) if ids else {}
        deadline = self.clock.monotonic() + wait
        pause, watch = self.pause(ids), self.watch(ids)
        try:
            while True:
                if pause:
                    time.sleep(min(pause, max(0.0, deadline - self.clock.monotonic())))
                seen = watch.generation
                found = self.look(ids, True)
                left = deadline - self.clock.monotonic()
                if found or left <= 0:
                    return found
                watch.wait(seen, left)
        finally:
            self.unwatch(watch)

    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        if not ids or wait <= 0:
            return await self.alook(ids, False) if ids else {}
        deadline = self.clock.monotonic() + wait
        pause, watch = self.pause(ids), self.watch(ids)
        try:
            while True:
                if pause:
                    await sleep(min(pause, max(0.0, deadline - self.clock.monotonic())))
                seen = watch.generation
                found = await self.alook(ids, True)
                left = deadline - self.clock.monotonic()
                if found or left <= 0:
                    return found
                await watch.changed(seen, left)
        finally:
            self.unwatch(watch)

    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        raise NotSupported(f"{self!r} cannot list the outcomes stored last. "
                           f"Set `result_backend` to one that can: {KEEPERS}.")  # fmt: skip


class PollingBackend(WaitingBackend):
    """Waits by polling, with growing pauses. Outcomes stored in this process wake its waiting callers at once.

    Those stored in other processes wake them by notices of the workers (`Backend.notices`), which may be lost, and are
    not sent to processes that wait for tasks of others.
    """

    lacks = frozenset({Ability.KEEP_WORKFLOWS, Ability.LIST_RECENT, Ability.NOTIFY})

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._polls: dict[Bell, frozenset[str]] = {}  # has no lock: a fork could inherit it locked

    @abstractmethod
    async def asave(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Store outcomes, as `Backend.store` does."""

    async def store(self, outcomes: Sequence[Outcome]) -> list[bool]:
        if not outcomes:
            return []
        done = await self.asave(outcomes)
        self.wake(outcome.id for outcome in outcomes if outcome.ready)
        return done

    def wake(self, ids: Iterable[str] | None) -> None:
        if not self._polls:
            return
        ended = None if ids is None else set(ids)
        for poll, wanted in self._polls.copy().items():
            if ended is None or not ended.isdisjoint(wanted):
                poll.ring()

    def watch(self, ids: Sequence[str]) -> Bell:
        poll = _Poll(self)
        self._polls[poll] = frozenset(ids)
        return poll

    def unwatch(self, watch: Watch) -> None:
        if isinstance(watch, Bell):
            del self._polls[watch]

    def pause(self, ids: Sequence[str]) -> float:
        return min(LONGEST_PAUSE, len(ids) * PAUSE_PER_ID) if len(ids) > FEW else 0.0


class SyncBackend(PollingBackend):
    """A backend whose client blocks. Its methods are called from any thread, and from several at a time."""

    @abstractmethod
    def save(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Store outcomes, as `Backend.store` does."""

    async def asave(self, outcomes: Sequence[Outcome]) -> list[bool]:
        return await in_thread(self.save, outcomes)

    async def alook(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        return await in_thread(self.look, ids, final)

    async def aforget(self, ids: Sequence[str]) -> None:
        await in_thread(self.forget, ids)


class AsyncBackend(PollingBackend):
    """A backend whose client is asynchronous.

    Each synchronous call runs in an event loop of its own, so connections that belong to a loop cannot be shared.
    """

    @abstractmethod
    async def alook(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        """Return the known outcomes of these tasks, by id; with `final`, only final ones. Do not wait."""

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        return complete(self.alook(ids, final))

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        return complete(self.afetch(ids, wait))  # one event loop for the whole wait

    def forget(self, ids: Sequence[str]) -> None:
        complete(self.aforget(ids))


def encoded_within(codec: Codec, outcome: Outcome, largest: int) -> tuple[Outcome, bytes]:
    """Return an outcome and its bytes; if they are more than a server accepts, without arguments that are large."""
    encoded = codec.encode_outcome(outcome)
    if len(encoded) > largest and (shorter := outcome.without_arguments()) is not outcome:
        return shorter, codec.encode_outcome(shorter)
    return outcome, encoded


def without_value(outcome: Outcome, why: str) -> Outcome:
    """Return the outcome to store instead of one that the server refuses as too large: its failure, with the reason."""
    error = BackendError(f"The result of {outcome.task}[{outcome.id}] {why}")
    log.warning("%s", error)
    outcome = outcome.without_arguments()
    if not outcome.ready:
        return replace(outcome, value=None, failure=None)
    return replace(outcome, state=states.FAILURE, value=None, failure=Failure.of(error), kept=None)


class _Poll(Bell):
    """The sleep of one waiting caller: until it is woken, or a pause that doubles each time."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend
        self._pause = FIRST_PAUSE
        self._slept = 0.0

    def wait(self, seen: int, timeout: float) -> None:
        super().wait(seen, min(timeout, self._next()))

    async def changed(self, seen: int, timeout: float) -> None:
        await super().changed(seen, min(timeout, self._next()))

    def _next(self) -> float:
        notices, longest = self._backend.notices, LONGEST_PAUSE
        if notices is not None:
            notices.begin()
            if notices.listening:
                longest = max(longest, min(RELAXED_PAUSE, self._slept / RELAXING))
        pause, self._pause = self._pause, min(longest, self._pause * 2)
        self._slept += pause
        return pause
