"""`AsyncResult`: waits for the outcome of a task, reads it from the backend, and turns it into a value or an exception.

Tasks and signatures return one for each call; `app.AsyncResult(id)` makes one for an earlier call.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, cast

from msgspec.structs import replace

from celeriac import states
from celeriac.errors import (
    CeleriacError,
    ImproperlyConfigured,
    ResultIgnored,
    ResultTimeout,
    TaskRevoked,
    WaitInTask,
    nearest,
)
from celeriac.lazy import LazyModule
from celeriac.model.clock import Duration, seconds
from celeriac.model.failure import Failure
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import decode
from celeriac.tasks.current_app import current_app
from celeriac.tasks.facts import Facts
from celeriac.tasks.protocols import App, Spot
from celeriac.tasks.request import current

__all__ = ["LONG", "AsyncResult", "Spot", "forbid_waiting"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from celeriac.model import status_urls
    from celeriac.tasks import plain_data

    R = TypeVar("R", default=Any, covariant=True)  # of `AsyncResult(id)`, whose task is not known
else:
    from typing import TypeVar

    status_urls = LazyModule("celeriac.model.status_urls")
    plain_data = LazyModule("celeriac.tasks.plain_data")

    R = TypeVar("R", covariant=True)

LONG = 3600.0  # seconds; a wait without a time-out asks the backend again after this
PAUSES = (0.01, 2.0)  # seconds; the shortest and the longest between two looks of `aprogress`


class AsyncResult(Facts, Generic[R]):
    """The state and result of one task, by its id. `await result` means `await result.aget()`.

    Without `app` it is that of the current app. Raises `ImproperlyConfigured` if there is none, and `TypeError` for an
    id that is no string.
    """

    __slots__ = ("_parent", "_spot", "app", "id", "ignored", "task_name")

    def __init__(self, id: str, app: App | None = None, task_name: str = "", ignored: bool = False,
                 spot: Spot | None = None, parent: AsyncResult[Any] | None = None) -> None:  # fmt: skip
        self.id = id
        self._spot = spot
        self._parent = parent  # known without a stored workflow: in a chain sent as one message
        self.ignored = ignored  # the call had `ignore_result`: no return value is stored
        if not isinstance(id, str) or not id:
            raise TypeError(f"The id of a task must be a non-empty string, not {id!r}.")
        self.app: App = current_app() if app is None else app
        self.task_name = task_name

    # --- Waiting for the result -----------------------------------------------------------------------

    def get(self, timeout: Duration | None = None, propagate: bool = True) -> R:
        """Wait for the task, and return its return value or raise its exception.

        With `propagate=False` the exception is returned, not raised. Raises `ResultTimeout` after `timeout` (seconds,
        or a timedelta), `TaskRevoked` if the task was revoked or expired, and `WaitInTask` inside a task. If the call
        had `ignore_result`, returns None at once.
        """
        if self.ignored:
            return cast(R, None)
        forbid_waiting()
        monotonic = self.app.clock.monotonic
        timeout = None if timeout is None else seconds(timeout, "timeout")
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = LONG if deadline is None else max(0.0, deadline - monotonic())
            found = self.app.backend.fetch([self.id], wait=left or 1e-9)
            if self.id in found:
                return cast(R, self._unwrap(found[self.id], propagate))
            if deadline is not None and monotonic() >= deadline:
                raise self._timeout_error(timeout, self.state)

    async def aget(self, timeout: Duration | None = None, propagate: bool = True) -> R:
        """Coroutine version of `get`. A coroutine task may wait with it."""
        if self.ignored:
            return cast(R, None)
        monotonic = self.app.clock.monotonic
        timeout = None if timeout is None else seconds(timeout, "timeout")
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left = LONG if deadline is None else max(0.0, deadline - monotonic())
            found = await self.app.backend.afetch([self.id], wait=left or 1e-9)
            if self.id in found:
                return cast(R, self._unwrap(found[self.id], propagate))
            if deadline is not None and monotonic() >= deadline:
                raise self._timeout_error(timeout, await self.astate())

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def _timeout_error(self, timeout: float | None, state: str) -> ResultTimeout:
        name, tasks, why = self.task_name or "", self.app.tasks, ""
        if name and name not in tasks:
            why = f" This app has no task of that name.{nearest(name, tasks)}"
        if state == states.PENDING:
            why += (" Is a worker running that receives from its queue, and is the task's module imported there, or "
                    "named in the setting `imports` or in `app.autodiscover_tasks`?")  # fmt: skip
        return ResultTimeout(f"The task {name}[{self.id}] has no result after {timeout:g} s; its state is {state}."
                             f"{why} `celeriac explain {self.id}` tells more.")  # fmt: skip

    @property
    def task_id(self) -> str:
        """Alias of `id`."""
        return self.id

    # --- State ----------------------------------------------------------------------------------------

    @property
    def outcome(self) -> Outcome | None:
        """The outcome that the backend has now, or None."""
        return self.app.backend.fetch([self.id]).get(self.id)

    async def aoutcome(self) -> Outcome | None:
        """Coroutine version of `outcome`."""
        return (await self.app.backend.afetch([self.id])).get(self.id)

    @property
    def state(self) -> str:
        """PENDING, STARTED, PROGRESS, RETRY, SUCCESS, FAILURE, REVOKED, IGNORED, or a custom state.

        PENDING also if nothing is known of the id.
        """
        return _state(self.outcome)

    status = state

    async def astate(self) -> str:
        """Coroutine version of `state`."""
        return _state(await self.aoutcome())

    @property
    def result(self) -> Any:
        """The return value or, if the task failed, the exception.

        Before the end: the `meta` of PROGRESS or a custom state, the exception that caused a retry, or None.
        """
        return self._info(self.outcome)

    @property
    def info(self) -> Any:
        """The same as `result`, but an exception has no traceback of the worker, so that it may be shown to anyone."""
        return self._public_info(self.outcome)

    async def ainfo(self) -> Any:
        """Coroutine version of `info`."""
        return self._public_info(await self.aoutcome())

    def to_dict(self, traceback: bool = False) -> dict[str, Any]:
        """Return what is known of the task as plain data, which can be shown to the public as JSON.

        The keys are `id`, `state`, `ready`, `progress` (the `meta` of PROGRESS or a custom state), `value` (what the
        task returned) and `error` (`type` and `message` of the exception that ended the task or caused a retry). With
        `traceback`, `error` has it, too. Folders of the worker's machine are left out of both.
        """
        return self._as_dict(self.outcome, traceback)

    async def ato_dict(self, traceback: bool = False) -> dict[str, Any]:
        """Coroutine version of `to_dict`."""
        return self._as_dict(await self.aoutcome(), traceback)

    async def aprogress(self, interval: Duration = 0.5) -> AsyncGenerator[dict[str, Any], None]:
        """Yield `to_dict()` now and after each change; the last one is `ready`. Made for server-sent events.

        The end is noticed at once, and other changes within `interval`; if nothing changes for long, within 2 seconds.
        Nothing ends the iteration for an id that nobody knows: cancel it when its reader has gone.
        """
        if self.ignored:
            raise ResultIgnored(f"Cannot follow {self!r}: its call had `ignore_result`, so its end is unknown. "
                                "Send it with ignore_result=False.")  # fmt: skip
        shortest, longest = PAUSES
        pause = first = max(shortest, seconds(interval, "interval"))
        outcome = await self.aoutcome()
        yield self._as_dict(outcome)
        while outcome is None or not outcome.ready:
            ended = await self.app.backend.afetch([self.id], wait=pause)
            found = ended.get(self.id) or await self.aoutcome()
            pause = max(first, min(longest, pause * 2))
            if found != outcome:
                outcome, pause = found, first
                yield self._as_dict(outcome)

    def status_url(self, expires: Duration = 3600.0, result: bool = True) -> str:
        """Return a URL that tells how the task is doing, to whoever has it; for a page that polls it, without a token.

        It answers with JSON as `to_dict` gives it, until `expires` (seconds, or a timedelta) have passed; without
        `result`, it leaves out the value that the task returns. `celeriac web` serves it. Raises `ImproperlyConfigured`
        without the settings `web_url` and `web_secret`.
        """
        base, secret = self.app.conf.web_url, self.app.conf.web_secret
        if base is None or secret is None:
            raise ImproperlyConfigured("A status URL needs the settings `web_url`, where `celeriac web` is reached, "
                                       "and `web_secret`, which signs it (`celeriac keys` makes one).")  # fmt: skip
        until = int(self.app.clock.now() + seconds(expires, "expires"))
        return f"{base}{status_urls.signed_path(secret, self.id, until, result)}"

    @property
    def traceback(self) -> str | None:
        """The traceback of the exception as text, or None."""
        outcome = self.outcome
        return outcome.failure.traceback if outcome is not None and outcome.failure is not None else None

    def ready(self) -> bool:
        """Return whether the task has ended."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Return whether the task has succeeded."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Return whether the task has failed, with no retry to come."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Return whether the broker has a message of this id, or the backend an outcome."""
        return self.outcome is not None or self.id in self.app.broker.complete(
            self.app.broker.operations().find([self.id])
        )

    # --- In a workflow --------------------------------------------------------------------------------

    @property
    def spot(self) -> Spot | None:
        """Its node in a workflow, or None. Before the task ends, only results that came from the workflow know it."""
        if self._spot is None:
            outcome = self.outcome
            if outcome is not None and outcome.place is not None:
                self._spot = self.app.workflows.spot(outcome.place)
        return self._spot

    @property
    def workflow_id(self) -> str | None:
        """The id of its workflow, or None."""
        return self.spot.workflow_id if self.spot is not None else None

    @property
    def parent(self) -> Any:
        """The result of the node before it in its workflow, an `AsyncResult` or a `GroupResult`; or None."""
        if self._parent is not None:
            return self._parent
        return self.spot.parent() if self.spot is not None else None

    @property
    def children(self) -> list[Any]:
        """The results of the nodes after it in its workflow."""
        return self.spot.children() if self.spot is not None else []

    @property
    def root(self) -> Any:
        """The result of the first node that leads to it; itself if there is none before it."""
        found: Any = self
        while (before := found.parent) is not None:
            found = before
        return found

    def collect(self, timeout: Duration | None = None, propagate: bool = True) -> Iterator[tuple[Any, Any]]:
        """Yield this and all results after it, each with its value, and wait for those that have not ended."""
        waiting: list[Any] = [self]
        while waiting:
            result = waiting.pop(0)
            yield result, result.get(timeout=timeout, propagate=propagate)
            waiting += result.children

    def get_leaf(self, timeout: Duration | None = None, propagate: bool = True) -> Any:
        """Return the value of the last result that `collect` yields."""
        return deque(self.collect(timeout, propagate), maxlen=1).pop()[1]

    # --- Acting ---------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Delete the outcome from the backend."""
        self.app.backend.forget([self.id])

    def revoke(self, terminate: bool = False) -> None:
        """Prevent the task from starting; with `terminate`, also end it if it is running."""
        self.app.control.revoke(self.id, terminate=terminate)

    async def arevoke(self, terminate: bool = False) -> None:
        """Coroutine version of `revoke`."""
        await self.app.control.arevoke(self.id, terminate=terminate)

    # --- Internals ------------------------------------------------------------------------------------

    def _info(self, outcome: Outcome | None) -> Any:
        if outcome is None:
            return None
        if outcome.state == states.RETRY:
            return outcome.exception()
        return self._unwrap(outcome, propagate=False)

    def _public_info(self, outcome: Outcome | None) -> Any:
        if outcome is not None and outcome.failure is not None:
            return replace(outcome.failure, traceback="").exception()
        return self._info(outcome)

    def _as_dict(self, outcome: Outcome | None, traceback: bool = False) -> dict[str, Any]:
        data = {"id": self.id, "state": _state(outcome), "ready": False, "progress": None, "value": None, "error": None}
        if outcome is None:
            return data
        error = plain_data.error_data(outcome, traceback)
        value = plain_data.plain(self._unwrap(outcome, propagate=False)) if error is None else None
        return {**data, "ready": outcome.ready, "value" if outcome.ready else "progress": value, "error": error}

    def _unwrap(self, outcome: Outcome, propagate: bool) -> Any:
        if outcome.state in (states.FAILURE, states.REVOKED):
            error = outcome.exception() or Failure.of(TaskRevoked()).exception()
            if outcome.failure is not None and outcome.failure.traceback:
                where = f"In the worker {outcome.worker}" if outcome.worker else "Traceback"
                error.add_note(f"{where}:\n{outcome.failure.traceback}")
            if outcome.cause is not None:
                error.add_note(f"{outcome.task}[{outcome.id}] was not run, because {outcome.cause} before it failed.")
            elif outcome.place is not None or isinstance(error, CeleriacError):
                error.add_note(f"In {outcome.task}[{outcome.id}].")
            if propagate:
                raise error
            return error
        if outcome.value is None:
            return None
        conf = self.app.conf
        value = decode(outcome.content_type, outcome.encoded_value(conf.result_max_bytes) or b"", conf.accept_content)
        task = self.app.tasks.get(outcome.task)
        return value if task is None or outcome.state != states.SUCCESS else task.arguments.rebuild_result(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.task_name}[{self.id}]>"


def _state(outcome: Outcome | None) -> str:
    return states.PENDING if outcome is None else outcome.state


def forbid_waiting() -> None:
    """Raise `WaitInTask` inside a task that a worker runs, and in tasks that such a task runs eagerly."""
    request = current.get()
    while request is not None and request.is_eager:
        request = request.outer
    if request is None:
        return
    if request.blocks_child:
        raise WaitInTask
    if _in_event_loop():  # a thread that a coroutine task has started may wait
        raise WaitInTask("Waiting here blocks the event loop of all coroutine tasks in this child: use `await result`.")


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")  # if it is not imported, no loop runs
    return asyncio is not None and asyncio._get_running_loop() is not None
