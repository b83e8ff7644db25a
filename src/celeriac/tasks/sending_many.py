"""Sending many calls of one task: what `delay_many` does, and what an error in the middle of it tells.

`task.py` calls this, with the messages of the calls in batches, or with an `apply_async` that a task class overrides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from celeriac.tasks.message_template import checked_call
from celeriac.tasks.result import AsyncResult
from celeriac.tasks.results import Results

if TYPE_CHECKING:
    from celeriac.model.arguments import Arguments
    from celeriac.model.message import Message
    from celeriac.tasks.protocols import AnyTask
    from celeriac.tasks.tracing import Sending

__all__ = ["asend_batches", "send_batches", "send_each"]

R = TypeVar("R")


def send_batches(task: AnyTask, batches: Iterable[list[Message]]) -> Results[Any]:
    """Publish messages of a task batch by batch, as they are made."""
    results: Results[Any] = Results(task.app, task.name)
    with _naming_sent(results), _span(task) as span:
        for messages in batches:
            task.app.publish(messages, span)
            results.add(messages)
    return results


async def asend_batches(task: AnyTask, batches: Iterable[list[Message]]) -> Results[Any]:
    """Coroutine version of `send_batches`."""
    results: Results[Any] = Results(task.app, task.name)
    with _naming_sent(results), _span(task) as span:
        for messages in batches:
            await task.app.apublish(messages, span)
            results.add(messages)
    return results


def send_each(send: Callable[[tuple[Any, ...], dict[str, Any]], AsyncResult[R]],
              calls: Iterable[tuple[Any, ...] | Mapping[str, Any]],
              arguments: Arguments | None) -> list[AsyncResult[R]]:  # fmt: skip
    """Send calls one by one, by `send(args, kwargs)`. Those of a list are checked before the first is sent."""
    if isinstance(calls, list | tuple):
        for call in calls:
            checked_call(call, arguments)
    results: list[AsyncResult[R]] = []
    with _naming_sent(results):
        for call in calls:
            results.append(send(*checked_call(call, None)))  # noqa: PERF401 - an error finds those that were sent
    return results


def _span(task: AnyTask) -> AbstractContextManager[Sending | None]:
    """Return the context of the span that all batches belong to."""
    return task.app.tracing.batch(f"send {task.name}", task.name, are_linked=True)


@contextmanager
def _naming_sent(results: Sequence[AsyncResult[Any]]) -> Iterator[None]:
    """Give an error the results of the calls that were sent before it."""
    try:
        yield
    except Exception as error:
        if results:
            error.sent = results  # type: ignore[attr-defined]
            error.add_note(f"{len(results):,} calls were sent before this error; `error.sent` has their results.")
        raise
