"""Collects what `/metrics` and the dashboard show: from history, broker, workers, schedules and this server.

A collection is made for all scrapes at the same time, and used again for `SHARE` times as long as it took, but not for
more than `OLDEST` seconds. A source that fails or takes too long is missing in it, which `celeriac_source_up` tells;
what the others say is shown all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from celeriac.app.app import Celeriac
from celeriac.errors import AccessRefused, BackendError, BrokerError, ImproperlyConfigured
from celeriac.inspector import Inspector, WorkerLoad
from celeriac.metrics.counts import Attempts, Errors, add_attempts, add_celery_attempts, add_counters
from celeriac.metrics.samples import Samples
from celeriac.metrics.table import CELERY_METRICS, METRICS, by_name
from celeriac.model.message import PLAIN
from celeriac.model.spread import Spread
from celeriac.ports.abilities import Ability
from celeriac.ports.complete import in_thread
from celeriac.ports.history import Counted, History
from celeriac.ports.operations import QueueCounts, WorkerInfo, labelled
from celeriac.ports.schedules import Entry, schedule_store

__all__ = ["Collected", "Collector", "Counts", "Read", "Requests", "receivers"]

log = logging.getLogger("celeriac.web")

T = TypeVar("T")
Answer: TypeAlias = "dict[str, Any]"
Names: TypeAlias = Literal["celeriac", "celery"]
Text: TypeAlias = tuple[bytes, str]

SHARE: Final = 20  # collecting takes at most one part in so many of the time …
FRESH: Final = 1.0  # seconds, for which a collection is used at least …
OLDEST: Final = 60.0  # … and at most
WITHIN: Final = 8.0  # seconds for all sources: Prometheus waits for ten
LOAD_SECONDS: Final = 1.0  # for workers to say how busy they are
MOST_SCHEDULES: Final = 1000  # the first ones by name
PAGE: Final = 500
FORMATS: Final = 8  # texts that are remembered


class Read(Protocol):
    """Asks a question where it does not block the event loop."""

    async def __call__(self, work: Coroutine[Any, Any, T], /) -> T:
        """Return the answer."""


class Requests:
    """How long requests took, by route, method and status."""

    def __init__(self) -> None:
        self.durations: dict[tuple[str, str, str], Spread] = {}

    def add(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.durations.setdefault((route, method, str(status)), Spread()).add([seconds])


class Counts(NamedTuple):
    """What the history has counted."""

    attempts: list[Attempts]
    counters: dict[Counted, int]
    signatures: dict[str, int]  # by status


class Collected(msgspec.Struct, frozen=True):
    """What is known at one time. A source that did not answer is None; one that there is not, too."""

    up: dict[str, bool]  # by source
    counts: Counts | None = None
    queues: list[QueueCounts] | None = None
    latencies: dict[str, float] = {}  # by queue
    workers: dict[str, WorkerInfo] | None = None
    load: dict[str, WorkerLoad] = {}  # by worker, of those that answered
    schedules: list[Entry] | None = None
    requests: dict[tuple[str, str, str], Spread] = {}  # by route, method and status
    now: float = 0.0


class Collector:
    """Collects, and makes samples of what was collected."""

    def __init__(self, app: Celeriac, read: Read, queues: Callable[[], Awaitable[list[QueueCounts]]],
                 requests: Requests) -> None:  # fmt: skip
        self._app = app
        self._read = read
        self._queues = queues  # counts messages, for others too
        self._requests = requests
        self._inspector = Inspector(app, timeout=LOAD_SECONDS)
        self._errors = Errors()
        self._asked: dict[str, asyncio.Future[Answer]] = {}  # questions that have no answer yet
        self._may_command: bool = app.conf.worker_remote_control
        self._collecting = asyncio.Lock()
        self._refreshing: asyncio.Task[Collected] | None = None  # for those who may not wait for its end
        self._answers: dict[str, Answer | None] = {}  # in the present collection, by source
        self._expired = False  # something was changed since the present collection began
        self._others = asyncio.Event()  # all sources have answered in the present collection, but for workers, maybe
        self._collected = Collected({})
        self._until = 0.0  # monotonic
        self._texts: dict[tuple[str, str], Text] = {}  # of this collection, by names and what the client accepts

    async def text(self, names: Names, accept: str, text_of: Callable[[Samples, str], Text]) -> Text:
        """Return metrics by these names, as `text_of` writes them."""
        async with self._collecting:
            await self._refresh()
            found = self._texts.get((names, accept))
            if found is None:
                if len(self._texts) >= FORMATS:
                    self._texts.clear()
                begun = time.monotonic()
                samples = self.celery_samples if names == "celery" else self.samples
                found = await in_thread(lambda collected: text_of(samples(collected), accept), self._collected)
                self._texts[names, accept] = found
                self._use_for(time.monotonic() - begun)
            return found

    async def collected(self) -> Collected:
        """Return what is known, as it is or was a little before."""
        async with self._collecting:
            await self._refresh()
            return self._collected

    async def collected_soon(self, within: float) -> Collected:
        """Return what is known; if workers do not answer, without them, `within` seconds after all others have.

        They are waited for nevertheless: who asks a little later gets what they said.
        """
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self.collected())
            self._refreshing.add_done_callback(self._refreshed)
        refreshing, others = self._refreshing, asyncio.ensure_future(self._others.wait())
        try:
            await asyncio.wait([refreshing, others], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([refreshing], timeout=within)
        finally:
            others.cancel()
        if refreshing.done():
            return refreshing.result()
        known = self._collected
        is_old = self._app.clock.now() - known.now > OLDEST
        return self._made({**self._answers, "workers": {"load": {} if is_old else known.load}})

    def _refreshed(self, done: asyncio.Task[Collected]) -> None:
        if self._refreshing is done:
            self._refreshing = None

    def expire(self) -> None:
        """Collect anew for the next who asks: this server has changed something. What is being collected is too old."""
        self._until = 0.0
        self._expired = True
        self._refreshing = None
        self._others.clear()

    async def _refresh(self) -> None:
        if time.monotonic() >= self._until:
            self._texts.clear()
            self._expired = False
            self._collected, cost = await self._collect()
            if self._expired:
                return
            self._use_for(cost if all(self._collected.up.values()) else 0.0)  # what is away is looked for again soon

    def _use_for(self, cost: float) -> None:
        self._until = max(self._until, time.monotonic() + min(OLDEST, max(FRESH, cost * SHARE)))

    async def _collect(self) -> tuple[Collected, float]:
        """Return what all sources say, and what that cost (seconds). To wait for workers costs nothing."""
        begun, cost = time.monotonic(), 0.0

        async def answer(name: str, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> None:
            nonlocal cost
            self._answers[name] = await self._answer(name, ask)
            if name != "workers":
                cost = max(cost, time.monotonic() - begun)
            if asked.keys() <= {*self._answers, "workers"} and not self._expired:
                self._others.set()

        asked = {"broker": self._ask_broker, "schedules": self._ask_schedules}
        if self._may_command:
            asked["workers"] = self._ask_workers
        if self._app.history is not None:
            asked["history"] = partial(self._ask_history, self._app.history)
        self._answers = {}
        try:
            await asyncio.gather(*(answer(name, ask) for name, ask in asked.items()))
        finally:
            self._others.clear()
        return self._made({name: self._answers[name] for name in asked}), cost

    def _made(self, answers: dict[str, Answer | None]) -> Collected:
        up = {name: answer is not None for name, answer in answers.items()}
        found = {name: value for answer in answers.values() if answer is not None for name, value in answer.items()}
        requests = {labels: spread.copy() for labels, spread in self._requests.durations.items()}
        return Collected(up, requests=requests, now=self._app.clock.now(), **found)

    async def _answer(self, name: str, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer | None:
        """Return what a source says; None if it does not.

        A thread cannot be told to stop. So a question that takes too long goes on, and is not asked again until it has
        an answer, which is then the answer.
        """
        question = self._asked.get(name)
        if question is None:
            question = self._asked[name] = asyncio.ensure_future(ask())
        done, _ = await asyncio.wait([question], timeout=WITHIN)
        if not done:
            log.warning("Metrics of the source %s are missing: it did not answer within %g s", name, WITHIN)
            return None
        del self._asked[name]
        try:
            return question.result()
        except (BrokerError, BackendError) as error:
            log.warning("Metrics of the source %s are missing: %s", name, error)
        except Exception:
            log.exception("Metrics of the source %s are missing", name)
        return None

    # --- Sources --------------------------------------------------------------------------------------

    async def _ask_history(self, history: History) -> Answer:
        async def ask() -> Counts:
            points = await history.totals(by=("task", "queue", "state", "error"))
            attempts = [Attempts(one.task, one.queue, one.state, one.error, one.sums) for one in points]
            statuses: dict[str, int] = dict.fromkeys(("open", "regressed", "resolved", "muted"), 0)
            for one in await history.known_signatures():
                statuses["regressed" if one.regressed else one.status] += 1
            return Counts(attempts, await history.counters(), statuses)

        return {"counts": await self._read(ask())}

    async def _ask_broker(self) -> Answer:
        queues = await self._queues()

        async def ask() -> tuple[dict[str, float], list[WorkerInfo]]:
            return await self._latencies(queues), await self._inspector.workers()

        latencies, workers = await self._read(ask())
        return {"queues": queues, "latencies": latencies, "workers": labelled(workers)}

    async def _latencies(self, queues: Sequence[QueueCounts]) -> dict[str, float]:
        """Return for how long the oldest ready message of each queue has waited; nothing if looking would take it."""
        if not self._app.broker.can(Ability.KNOW_IDS):
            return {}
        found = {}
        for one in queues:
            heads = await self._app.broker.operations().heads(one.queue) if one.ready else []
            since = [max(head.sent_at, head.due_at or 0.0) for head in heads if head.sent_at]
            found[one.queue] = max(0.0, self._app.clock.now() - min(since)) if since else 0.0
        return found

    async def _ask_workers(self) -> Answer:
        try:
            return {"load": (await self._read(self._inspector.load())).values}
        except (AccessRefused, ImproperlyConfigured) as error:
            self._may_command = False
            log.info("How busy workers are is not shown, because this server may not command them: %s", error)
            return {}

    async def _ask_schedules(self) -> Answer:
        try:
            store = schedule_store(self._app.broker, self._app.backend)
        except BackendError:
            return {}  # there are none: nothing keeps them

        async def ask() -> list[Entry]:
            found: list[Entry] = []
            while len(found) < MOST_SCHEDULES:
                page = await store.page(found[-1].name if found else "", PAGE)
                found += page
                if len(page) < PAGE:
                    break
            return found

        return {"schedules": await self._read(ask())}

    # --- Samples --------------------------------------------------------------------------------------

    def samples(self, collected: Collected) -> Samples:
        """Return what was collected, by our own names."""
        samples = Samples(by_name(METRICS))
        if collected.counts is not None:
            queues = [one.queue for one in collected.queues or ()]
            add_attempts(samples, collected.counts.attempts, self._known(), self._errors)
            add_counters(samples, collected.counts.counters, self._known(), queues)
            for status, count in collected.counts.signatures.items():
                samples.set("celeriac_failure_signatures", count, status)
        for one in collected.queues or ():
            for state in ("ready", "scheduled", "active", "dead"):
                samples.set("celeriac_queue_messages", getattr(one, state), one.queue, state)
            samples.set("celeriac_queue_paused", one.paused, one.queue)
            samples.set("celeriac_queue_workers", len(receivers(collected, one.queue)), one.queue)
        for queue, seconds in collected.latencies.items():
            samples.set("celeriac_queue_latency_seconds", seconds, queue)
        self._add_workers(samples, collected)
        self._add_schedules(samples, collected)
        for labels, spread in collected.requests.items():
            samples.merge("celeriac_http_request_duration_seconds", spread, *labels)
        for source, up in collected.up.items():
            samples.set("celeriac_source_up", up, source)
        return samples

    def _known(self) -> set[str]:
        return {*self._app.tasks, *self._app.builtin_tasks}

    def _add_workers(self, samples: Samples, collected: Collected) -> None:
        for name, worker in (collected.workers or {}).items():
            samples.set("celeriac_worker_up", 1, name)
            samples.set("celeriac_worker_info", 1, name, worker.host, worker.version)
            load = collected.load.get(name)
            for lane, slots in (load.capacity if load is not None else worker.concurrency).items():
                samples.set("celeriac_worker_slots", slots, name, lane)
            for lane, busy in (load.busy if load is not None else {}).items():
                samples.set("celeriac_worker_slots_busy", busy, name, lane)

    def _add_schedules(self, samples: Samples, collected: Collected) -> None:
        for entry in collected.schedules or ():
            samples.add("celeriac_schedule_ticks_total", entry.sent, entry.name)
            due = entry.next_at / 1000 if entry.next_at is not None else collected.now
            samples.set("celeriac_schedule_lag_seconds", max(0.0, collected.now - due), entry.name)

    def celery_samples(self, collected: Collected) -> Samples:
        """Return the same by celery-exporter's names."""
        samples = Samples(by_name(CELERY_METRICS))
        if collected.counts is not None:
            counts = collected.counts
            add_celery_attempts(samples, counts.attempts, counts.counters, self._known(), self._errors)
        for name in collected.workers or ():
            samples.set("celery_worker_up", 1, name)
        for name, load in collected.load.items():
            samples.set("celery_worker_tasks_active", sum(load.busy.values()), name)
        for one in collected.queues or ():
            workers = receivers(collected, one.queue)
            if not one.uncounted:
                samples.set("celery_queue_length", one.ready, one.queue)
            samples.set("celery_active_consumer_count", len(workers), one.queue)
            samples.set("celery_active_worker_count", len(workers), one.queue)
            samples.set("celery_active_process_count", sum(_processes(collected, name) for name in workers), one.queue)
        return samples


def receivers(collected: Collected, queue: str) -> list[str]:
    """Return the workers that receive from a queue: as they say, or else as they said when they started."""
    found = []
    for name, worker in (collected.workers or {}).items():
        load = collected.load.get(name)
        if queue in (worker.queues if load is None or load.queues is None else load.queues):
            found.append(name)
    return found


def _processes(collected: Collected, name: str) -> int:
    load = collected.load.get(name)
    slots = load.capacity if load is not None else (collected.workers or {})[name].concurrency
    return slots.get(PLAIN, 0)
