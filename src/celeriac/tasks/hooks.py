"""The end of an attempt, as told to the user's code: the hooks of the task's class, and the receivers of signals.

`Executor` makes the outcome, and then calls them in Celery's order. The outcome stands: an exception in a hook or a
receiver is logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any

from celeriac import signals, states
from celeriac.model.outcome import Outcome
from celeriac.tasks.request import Request

__all__ = ["HOOKS", "ExceptionInfo", "after_before_start", "are_told", "tell"]

log = logging.getLogger("celeriac.tasks.hooks")

HOOKS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")
"""The hooks of a task's class. The first is called as a part of the function: what it raises ends the attempt."""

REJECTED = "REJECTED"  # Celery's name for the state of a message that its task rejected


class ExceptionInfo:
    """An exception and its traceback: the `einfo` of hooks and signals. `str(einfo)` is the traceback as text."""

    def __init__(self, exception: BaseException, traceback: str = "") -> None:
        self.type = type(exception)
        self.exception = exception
        self.tb: TracebackType | None = exception.__traceback__
        self.traceback = traceback

    @property
    def exc_info(self) -> tuple[type[BaseException], BaseException, TracebackType | None]:
        """The class, the exception and its traceback, as `logging` takes them."""
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo {self.exception!r}>"


def are_told(request: Request) -> bool:
    """Return whether a hook or a receiver waits for the end of this attempt."""
    return bool(
        request.task.hooks
        or signals.task_postrun.receivers
        or signals.task_success.receivers
        or signals.task_failure.receivers
        or signals.task_retry.receivers
    )


def tell(request: Request, outcome: Outcome, returned: Any) -> Iterator[Coroutine[Any, Any, None]]:
    """Call the hooks and the receivers; yield the coroutines of hooks that are `async def`, for the caller to run.

    `returned` is what the function returned, or the exception that ended it.
    """
    task, id, args, kwargs = request.task, request.id, request.args, request.kwargs
    state, einfo = _state(outcome), None
    if isinstance(returned, BaseException) and outcome.state != states.SUCCESS:
        einfo = ExceptionInfo(returned, outcome.failure.traceback if outcome.failure is not None else "")
    match state:
        case states.SUCCESS:
            yield from _hook(request, "on_success", returned, id, args, kwargs)
            signals.task_success.send(task, task_id=id, result=returned, runtime=outcome.runtime)
        case states.FAILURE:
            yield from _hook(request, "on_failure", returned, id, args, kwargs, einfo)
            signals.task_failure.send(task, task_id=id, exception=returned, args=args, kwargs=kwargs,
                                      traceback=returned.__traceback__, einfo=einfo)  # fmt: skip
        case states.RETRY:
            yield from _hook(request, "on_retry", returned.exc or returned, id, args, kwargs, einfo)
            signals.task_retry.send(task, task_id=id, request=request, reason=returned, einfo=einfo)
    if state in states.READY_STATES and state != states.IGNORED:
        yield from _hook(request, "after_return", state, returned, id, args, kwargs, einfo)
    signals.task_postrun.send(task, task_id=id, task=task, args=args, kwargs=kwargs, retval=returned, state=state)


def _state(outcome: Outcome) -> str:
    """Return the state of an outcome as Celery tells it: a task that was replaced raises `Ignore` there."""
    if outcome.rejected:
        return REJECTED
    return states.IGNORED if outcome.state == states.REPLACED else outcome.state


def _hook(request: Request, name: str, *arguments: Any) -> Iterator[Coroutine[Any, Any, None]]:
    if name not in request.task.hooks:
        return
    try:
        result = getattr(request.task, name)(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - logged
        _log(request, name)
        return
    if inspect.isawaitable(result):
        yield _finish(request, name, result)


def after_before_start(task: Any, body: Callable[..., Any]) -> Callable[..., Any]:
    """Return what calls the hook `before_start` of a task, and then its function."""

    def run(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        pending = task.before_start(request.id, request.args, request.kwargs)
        if inspect.isawaitable(pending):
            task.app.broker.complete(_awaited(pending))
        return body(*args, **kwargs)

    async def arun(*args: Any, **kwargs: Any) -> Any:
        request = task.request
        pending = task.before_start(request.id, request.args, request.kwargs)
        if inspect.isawaitable(pending):
            await pending
        return await body(*args, **kwargs)

    return arun if task.is_coroutine else run


async def _awaited(pending: Any) -> None:
    await pending


async def _finish(request: Request, name: str, result: Any) -> None:
    try:
        await result
    except BaseException:  # noqa: BLE001 - logged
        # `CancelledError` included: a time limit has passed meanwhile, and the pool makes that outcome.
        _log(request, name)


def _log(request: Request, name: str) -> None:
    log.exception("The hook %s of %s[%s] failed; the outcome of the task stands", name, request.name, request.id)
