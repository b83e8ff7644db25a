"""The site: what all endpoints share. It has the app, the limits, and ways to wait and to read without blocking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Final, TypeVar

from starlette.requests import Request

from celeriac.app.app import Celeriac
from celeriac.canvas.workflow import Workflow
from celeriac.errors import WorkflowError, nearest
from celeriac.inspector import Inspector, TaskView
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability
from celeriac.ports.complete import in_thread
from celeriac.ports.operations import QueueCounts
from celeriac.web.collecting import Collector, Requests
from celeriac.web.limits import Buckets, Limits, Streams
from celeriac.web.problems import Problem
from celeriac.worker.gateway import Gateway

__all__ = ["API", "Site"]

T = TypeVar("T")

API: Final = "/api/v1"
FEW: Final = 32
SHARE: Final = 20  # counting the messages of all queues takes at most one part in so many of the time
QUICK: Final = 0.1  # seconds: counting that takes less is waited for
OLDEST: Final = 60.0  # seconds, after which earlier counts are not given any more


class Site:
    """An app, as the endpoints see it."""

    def __init__(self, app: Celeriac, limits: Limits) -> None:
        self.app = app
        self.limits = limits
        self.inspector = Inspector(app)
        self.streams = Streams(limits.streams)
        self.buckets = Buckets(limits.rate, limits.burst)
        self.stopping = asyncio.Event()
        self.outstanding: set[str] = set()  # idempotency keys of requests that are being handled
        self.requests = Requests()
        self.collector = Collector(app, self.read, self.counts, self.requests)
        self.gateway: Gateway | None = None  # made by the first remote worker
        self.feeds: Any = None  # what streams of events share; `application.py` sets it
        self.pulse: Any = None  # what open pages of the dashboard share; `dashboard/application.py` sets it
        self.figures: Any = None  # what the dashboard has read of the history; `dashboard/figures.py` sets it
        self.roster: Any = None  # the workers that the dashboard has seen; `dashboard/roster.py` sets it
        self.jobs: dict[str, Any] = {}  # bulk actions of this process, by their ids
        self._counts: list[QueueCounts] | None = None
        self._counts_at = self._counts_until = 0.0  # monotonic
        self._counts_took = 0.0
        self._counting: asyncio.Task[list[QueueCounts] | None] | None = None

    # --- Reading --------------------------------------------------------------------------------------

    async def read(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a question to broker, backend or history gives; in a thread, if a driver would block the loop."""
        app = self.app
        try:
            ports = (app.broker, app.backend, app.history)
            if any(port is not None and port.reads_block for port in ports):
                return await in_thread(app.broker.complete, work)
            return await work
        finally:
            if getcoroutinestate(work) == CORO_CREATED:  # cancelled before a thread was free
                work.close()

    async def counts(self, age: float = 0.0) -> list[QueueCounts]:
        """Count the messages of all queues, once for all who ask at the same time.

        Counting may take long in a database with millions of messages. So its answer is given again for `SHARE` times
        as long as it took; and if that is long, also while they are counted anew. With `age`, counts that are so many
        seconds old will do.
        """
        while True:
            known, now = self._counts, time.monotonic()
            if known is not None and now < max(self._counts_until, self._counts_at + age):
                return known
            if self._counting is None:
                self._counting = asyncio.create_task(self._count())
                self._counting.add_done_callback(_look_at)
            if known is not None and self._counts_took > QUICK and now < self._counts_at + OLDEST:
                return known
            counted = await asyncio.shield(self._counting)
            if counted is not None:
                return counted

    async def _count(self) -> list[QueueCounts] | None:
        """Return the counts, and keep them; None if a queue was changed meanwhile."""
        begun = time.monotonic()
        try:
            counts = await self.read(self.inspector.queues())
            if self._counting is not asyncio.current_task():
                return None
            self._counts, self._counts_at = counts, time.monotonic()
            self._counts_took = self._counts_at - begun
            self._counts_until = self._counts_at + self._counts_took * SHARE
            return counts
        finally:
            if self._counting is asyncio.current_task():
                self._counting = None

    def changed(self) -> None:
        """Forget the counts: this server has changed a queue."""
        self._counts = self._counting = None
        self.collector.expire()

    async def views(self, ids: Sequence[str], workflow: str | None = None) -> dict[str, TaskView]:
        """Return what is known of tasks, by id; those of which nothing is known are left out.

        The tasks of a workflow that have not been sent yet are known to the workflow alone: with its id, they pend.
        """
        finding = self.inspector.find(ids)
        views = await (finding if len(ids) <= FEW else self.read(finding))  # a thread takes longer than finding a few
        unknown = {id for id, view in views.items() if not view.known}
        if unknown and workflow is not None:
            unknown -= {step.id for _, step in (await self.workflow(workflow)).tree.steps()}
        if not self.app.broker.can(Ability.KNOW_IDS):
            return views
        return {id: view for id, view in views.items() if id not in unknown}

    async def view(self, id: str, workflow: str | None = None) -> TaskView:
        """Return what is known of a task. Raises a `Problem` if that is nothing."""
        views = await self.views([id], workflow)
        if not views:
            raise Problem("unknown-id", f"Nothing is known of the task {id}: the id is wrong, or its result has "
                          "expired or was forgotten. A task of a workflow is unknown before it is sent: ask with "
                          "?workflow=ID.")  # fmt: skip
        return views[id]

    async def workflow(self, id: str) -> Workflow:
        """Return a workflow that was sent. Raises a `Problem`."""
        try:
            return await in_thread(self.app.workflow, id)
        except WorkflowError as error:
            raise Problem("unknown-workflow", str(error)) from None

    def task(self, name: str) -> Any:
        """Return a registered task. Raises a `Problem` with the name that was probably meant."""
        task = self.app.tasks.get(name)
        if task is None:
            ends = [known for known in self.app.tasks if known.rpartition(".")[2] == name]
            hint = f" Did you mean {ends[0]!r}?" if len(ends) == 1 else nearest(name, self.app.tasks)
            raise Problem("unknown-task", f"No task named {name!r} is registered.{hint} GET {API}/task-types has all.",
                          nearest=hint.partition("'")[2].rpartition("'")[0] or None)  # fmt: skip
        return task

    # --- Waiting --------------------------------------------------------------------------------------

    async def ended(self, request: Request, ids: Sequence[str], wait: float) -> dict[str, Outcome]:
        """Return final outcomes, as soon as there is one; an empty dict after `wait` seconds, or if nobody waits."""
        if wait <= 0:
            return {}
        return await self.while_wanted(request, self.app.backend.afetch(ids, wait)) or {}

    async def while_wanted(self, request: Request, work: Awaitable[T]) -> T | None:
        """Return the result of a wait; None if the client has gone, or the server stops, before it is there."""
        waiting = asyncio.ensure_future(work)
        others = [asyncio.ensure_future(_disconnected(request.receive)), asyncio.ensure_future(self.stopping.wait())]
        try:
            await asyncio.wait((waiting, *others), return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            for task in (waiting, *others):
                task.cancel()
            await asyncio.gather(waiting, *others, return_exceptions=True)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Take note of an exception: those who wait for the task get it, and maybe nobody does."""
    if not task.cancelled():
        task.exception()


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
