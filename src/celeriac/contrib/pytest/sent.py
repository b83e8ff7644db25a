"""Records which tasks the code under test has sent, whether or not a worker runs them.

Calls are recorded, and the first tasks of workflows; not what workers send: links, later steps, retries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple

from celeriac import signals
from celeriac.app.app import Celeriac
from celeriac.model.clock import Duration, seconds
from celeriac.model.serialization import serializer
from celeriac.tasks.task import Task

__all__ = ["SentTask", "SentTasks", "recording"]

TOLERANCE: Final = 1.0  # seconds; of a countdown: the message says when it is due


class SentTask(NamedTuple):
    """A task that was sent."""

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    id: str
    queue: str
    eta: datetime | None  # when it is due
    countdown: float | None  # in so many seconds, when it was sent
    headers: Mapping[str, Any]  # as the signal `after_task_publish` shows them

    def __str__(self) -> str:
        shown = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        when = f" in {self.countdown:.1f} s" if self.countdown is not None else ""
        return f"{self.task}({', '.join(shown)}) to the queue {self.queue!r}{when}"


class SentTasks(Sequence[SentTask]):
    """What was sent, in order."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        self._sent: list[SentTask] = []

    def of(self, task: Task[Any, Any] | str) -> list[SentTask]:
        """Return what was sent of one task."""
        name = task if isinstance(task, str) else task.name
        return [one for one in self._sent if one.task == name]

    def clear(self) -> None:
        """Forget what was sent until now."""
        self._sent.clear()

    def assert_sent(self, task: Task[Any, Any] | str, args: Sequence[Any] | None = None,
                    kwargs: Mapping[str, Any] | None = None, *, queue: str | None = None,
                    countdown: Duration | None = None, eta: datetime | None = None,
                    times: int | None = None) -> SentTask:  # fmt: skip
        """Assert that a task was sent, with all that is given here; return the last one that was sent so.

        `add.delay(2, y=3)` was sent with `args=(2, 3)`, too. `times`: exactly so often; otherwise once or more.
        `countdown`: within a second.
        """
        found = [
            one for one in self.of(task) if queue in (None, one.queue) and eta in (None, one.eta)
            and _is_near(one.countdown, countdown) and self._is_meant(task, one, args, kwargs)
        ]  # fmt: skip
        if found and times in (None, len(found)):
            return found[-1]
        name = task if isinstance(task, str) else task.name
        given = {"args": args, "kwargs": kwargs, "queue": queue, "countdown": countdown, "eta": eta}
        what = ", ".join(f"{key}={value!r}" for key, value in given.items() if value is not None)
        how = f"sent {len(found)} times, not {times}" if found else "not sent"
        raise AssertionError(f"{name} was {how}{what and f', with {what}'}. {self}")

    def assert_not_sent(self, task: Task[Any, Any] | str, args: Sequence[Any] | None = None,
                        kwargs: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        """Assert that a task was not sent; with arguments: not with these."""
        if any(self._is_meant(task, one, args, kwargs) for one in self.of(task)):
            name = task if isinstance(task, str) else task.name
            raise AssertionError(f"{name} was sent. {self}")

    def _is_meant(self, task: Task[Any, Any] | str, sent: SentTask, args: Sequence[Any] | None,
                  kwargs: Mapping[str, Any] | None) -> bool:  # fmt: skip
        if args is None and kwargs is None:
            return True
        if (args is None or tuple(args) == sent.args) and (kwargs is None or dict(kwargs) == dict(sent.kwargs)):
            return True
        given = self._travelled(tuple(args or ()), dict(kwargs or {}))
        known = self._app.tasks.get(sent.task) if isinstance(task, str) else task
        if known is None:
            return given == (sent.args, dict(sent.kwargs))
        signature = known.arguments.signature
        try:
            return signature.bind_partial(*given[0], **given[1]) == signature.bind_partial(*sent.args, **sent.kwargs)
        except TypeError:  # another version of the task
            return given == (sent.args, dict(sent.kwargs))

    def _travelled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments as they are after they were encoded: a tuple in JSON is a list."""
        how = serializer(self._app.conf.task_serializer)
        found_args, found_kwargs = how.loads(how.dumps([list(args), kwargs]))
        return tuple(found_args), dict(found_kwargs)

    def _record(self, sender: str, body: Any, routing_key: str, headers: Mapping[str, Any], **_: Any) -> None:
        args, kwargs, _linked = body
        eta = datetime.fromisoformat(headers["eta"]) if headers["eta"] else None
        countdown = None if eta is None else eta.timestamp() - self._app.clock.now()
        sent = SentTask(sender, tuple(args), dict(kwargs), headers["id"], routing_key, eta, countdown, headers)
        self._sent.append(sent)

    def __getitem__(self, place: Any) -> Any:
        return self._sent[place]

    def __len__(self) -> int:
        return len(self._sent)

    def __str__(self) -> str:
        return f"Sent were: {'; '.join(map(str, self._sent))}." if self._sent else "Nothing was sent."

    def __repr__(self) -> str:
        return f"<SentTasks {self._sent!r}>"


@contextmanager
def recording(app: Celeriac) -> Iterator[SentTasks]:
    """Record what is sent for as long as a block lasts."""
    sent = SentTasks(app)
    receiver: Callable[..., None] = sent._record
    signals.after_task_publish.connect(receiver)
    try:
        yield sent
    finally:
        signals.after_task_publish.disconnect(receiver)


def _is_near(found: float | None, wanted: Duration | None) -> bool:
    return wanted is None or (found is not None and abs(found - seconds(wanted, "countdown")) <= TOLERANCE)
