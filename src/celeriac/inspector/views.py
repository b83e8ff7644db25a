"""What the inspector returns: replies of workers, and what is known about a task."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from celeriac import states
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome

__all__ = ["ActiveTask", "Answers", "Child", "Circumstances", "Pool", "ReservedTask", "TaskStats", "TaskView", "Told",
           "WorkerLoad", "WorkerStats"]  # fmt: skip

T = TypeVar("T")


class Answers(msgspec.Struct, Generic[T], frozen=True):
    """The replies of workers, by worker name."""

    values: dict[str, T]
    errors: dict[str, str] = {}  # from workers that replied with an error
    silent: tuple[str, ...] = ()  # running, but did not reply in time
    unknown: tuple[str, ...] = ()  # named in `destination`, but not running

    @property
    def heard(self) -> bool:
        """Whether any worker replied, even with an error."""
        return bool(self.values or self.errors)


class ReservedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that a worker has received and not yet started."""

    id: str
    task: str
    queue: str = ""


class ActiveTask(ReservedTask, frozen=True, kw_only=True):
    """A task that a worker is running."""

    attempt: int = 1
    started_at: float = 0.0
    pid: int | None = None
    args_bytes: int = 0
    soft_time_limit: float | None = None  # seconds; as this worker has it
    time_limit: float | None = None


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A child process of a worker."""

    pid: int = 0
    lane: str = ""
    done: int = 0  # attempts that have ended
    running: int = 0


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """The children of a worker."""

    kind: str = ""
    children: list[Child] = []


class TaskStats(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of one task on one worker since the worker started; durations in seconds."""

    count: int = 0
    states: dict[str, int] = {}
    mean: float | None = None
    min: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class WorkerStats(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's own statistics."""

    pid: int = 0
    uptime: float = 0.0  # seconds
    queues: tuple[str, ...] | None = None  # it receives from these now; None: not reported
    pool: Pool = Pool()
    capacity: dict[str, int] = {}  # by lane
    rusage: dict[str, Any] = {}
    tasks: dict[str, TaskStats] = {}


class WorkerLoad(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a worker is."""

    capacity: dict[str, int] = {}  # slots, by lane
    busy: dict[str, int] = {}  # attempts that run, by lane
    queues: tuple[str, ...] | None = None  # it receives from these now; None: not reported


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A task that a worker holds, as it tells why another does not run."""

    id: str
    task: str
    queue: str = ""
    lane: str = ""
    attempt: int = 1
    started_at: float | None = None  # None: it has not started
    pid: int | None = None
    soft_time_limit: float | None = None  # seconds
    time_limit: float | None = None


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker knows of why a task does not run."""

    queues: tuple[str, ...] = ()  # it receives from these
    registered: bool = True  # whether it has a task of that name
    nearest: str | None = None  # the most similar name, if not
    lane: str | None = None  # that the task needs
    rate: float | None = None  # how many attempts of the task it may start per second
    capacity: dict[str, int] = {}  # slots, by lane
    free: dict[str, int] = {}  # how many tasks it would take now, by lane
    own: Told | None = None  # the task itself, if this worker holds it
    running: tuple[Told, ...] = ()  # what it runs, the longest first; at most 10


class TaskView(msgspec.Struct, frozen=True):
    """What is known about one task: its message, if the broker holds one, and its outcome, if one is stored."""

    id: str
    place: str | None = None  # of the message: "ready", "scheduled", "active" or "dead"; None: the broker has none
    message: Message | None = None
    outcome: Outcome | None = None

    @property
    def known(self) -> bool:
        """Whether there is a message or an outcome with this id."""
        return self.message is not None or self.outcome is not None

    @property
    def state(self) -> str:
        """The state, as in `AsyncResult.state`."""
        return states.PENDING if self.outcome is None else self.outcome.state

    @property
    def task(self) -> str:
        """The task's name; empty if nothing is known about the id."""
        known = self.outcome or self.message
        return known.task if known is not None else ""
