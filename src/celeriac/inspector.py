"""Inspect and operate a running system. All front ends (command, web) go through this module.

Commands to workers are broadcast (`control.py`), and the replies come back as `Answers`. Queues and dead letters are
read through the broker's second port, `Operations`; outcomes come from the backend.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec
from msgspec.structs import replace

from celeriac import states
from celeriac.app.control import Reply, read_reply
from celeriac.app.purging import purge
from celeriac.errors import NotSupported, UnknownQueue
from celeriac.model.clock import Duration, limit, seconds
from celeriac.model.gate import Unreadable
from celeriac.model.history import Event
from celeriac.model.message import Message, decode, new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import MISSED
from celeriac.ports.operations import Dead, QueueCounts, WorkerInfo, anew, labelled

if TYPE_CHECKING:
    from celeriac.app.app import Celeriac

__all__ = [
    "ActiveTask",
    "Answers",
    "Child",
    "Inspector",
    "Pool",
    "ReservedTask",
    "Retried",
    "TaskStats",
    "TaskView",
    "WorkerLoad",
    "WorkerStats",
]

log = logging.getLogger("celeriac.inspector")

T = TypeVar("T")

RETRIED = "task.retried"  # an event of the history
RETRY_SECONDS = 1.0  # until a failed task runs that is sent again


# --- Return values ------------------------------------------------------------------------------------


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


class Retried(msgspec.Struct, frozen=True):
    """Which tasks were sent again, and why others were not."""

    sent: list[str]
    refused: dict[str, str]


# --- The inspector ------------------------------------------------------------------------------------


class Inspector:
    """Inspects and operates an app's workers, queues and tasks.

    Commands go to the workers named in `destination` (None: all), which have `timeout` seconds to reply.
    """

    def __init__(self, app: Celeriac, destination: Sequence[str] | None = None, timeout: Duration = 2.0) -> None:
        self._app = app
        self.destination = destination
        self.timeout = seconds(timeout, "timeout")

    # --- Workers: queries -----------------------------------------------------------------------------

    async def ask(self, name: str, arguments: Mapping[str, Any] | None = None,
                  destination: Sequence[str] | None = None, timeout: Duration | None = None,
                  ) -> dict[str, Reply]:  # fmt: skip
        """Send a control command, and return the replies by worker name.

        Returns when every running worker in `destination` has replied, or after `timeout` seconds. Workers of one name
        have their pids and hosts after it.
        """
        workers = {
            label: worker
            for label, worker in labelled(await self.workers()).items()
            if destination is None or worker.name in destination
        }
        labels = {(worker.name, worker.host, worker.pid): label for label, worker in workers.items()}
        replies: dict[str, Reply] = {}
        if not workers:
            return replies
        channel = f"reply.{new_id()}"
        # Listen before sending, so that no reply is missed.
        answers = cast(AsyncGenerator[bytes, None], await self._app.broker.listen(channel))
        async with aclosing(answers):
            addressed = sorted({worker.name for worker in workers.values()})
            await self._app.control.send(name, arguments, destination=addressed, reply_to=channel)
            try:
                async with asyncio.timeout(self.timeout if timeout is None else seconds(timeout, "timeout")):
                    async for payload in answers:
                        if payload is MISSED:
                            continue
                        try:
                            reply = read_reply(self._app.broker.codec.open("reply", payload, channel))
                        except ValueError as error:
                            log.warning("Ignored an unreadable reply to a control command: %s", error)
                            continue
                        replies[labels.get((reply.worker, reply.host, reply.pid), reply.worker)] = reply
                        if replies.keys() >= workers.keys():
                            break
            except TimeoutError:
                pass
        return replies

    async def _answers(self, kind: type[T], name: str,
                       arguments: Mapping[str, Any] | None = None) -> Answers[T]:  # fmt: skip
        running = labelled(await self.workers())
        names = {worker.name for worker in running.values()}
        asked = names if self.destination is None else set(self.destination)
        replies = await self.ask(name, arguments, sorted(asked), self.timeout)
        values: dict[str, T] = {}
        errors: dict[str, str] = {}
        for worker, reply in sorted(replies.items()):
            if reply.error is not None:
                errors[worker] = reply.error
                continue
            try:
                values[worker] = msgspec.convert(reply.value, kind)
            except msgspec.ValidationError as error:  # a worker of another version
                errors[worker] = f"its reply is not understood ({error}): is it of another version of Celeriac?"
        silent = {label for label, worker in running.items() if worker.name in asked} - replies.keys()
        return Answers(values, errors, tuple(sorted(silent)), tuple(sorted(asked - names)))

    async def ping(self) -> Answers[dict[str, Any]]:
        """Check which workers reply."""
        return await self._answers(dict[str, Any], "ping")

    async def stats(self) -> Answers[WorkerStats]:
        """Return each worker's pool, capacity, resource usage, and statistics by task."""
        return await self._answers(WorkerStats, "stats")

    async def load(self) -> Answers[WorkerLoad]:
        """Return how many slots each worker has, and how many attempts run in them. Cheaper than `stats`."""
        return await self._answers(WorkerLoad, "load")

    async def active(self) -> Answers[list[ActiveTask]]:
        """Return the tasks that each worker is running."""
        return await self._answers(list[ActiveTask], "active")

    async def reserved(self) -> Answers[list[ReservedTask]]:
        """Return the tasks that each worker has received and not started."""
        return await self._answers(list[ReservedTask], "reserved")

    async def registered(self) -> Answers[list[str]]:
        """Return the names of the tasks that each worker has registered."""
        return await self._answers(list[str], "registered")

    # --- Workers: commands ----------------------------------------------------------------------------

    async def order(self, name: str, arguments: Mapping[str, Any] | None = None) -> Answers[Any]:
        """Send a control command by name, and return the replies unparsed."""
        return await self._answers(object, name, arguments)

    async def rate_limit(self, task: str, rate: str | float | None) -> Answers[Any]:
        """Limit how many attempts of a task each worker starts per unit of time: `"10/s"`; None: no limit."""
        return await self.order("rate_limit", {"task": task, "rate": rate})

    async def time_limit(self, task: str, soft: Duration | None, hard: Duration | None) -> Answers[Any]:
        """Set a task's time limits (None: no limit), for attempts that start from now on."""
        limits = {"soft": limit(soft, "soft"), "hard": limit(hard, "hard")}
        return await self.order("time_limit", {"task": task, **limits})

    async def pool_grow(self, n: int = 1) -> Answers[Any]:
        """Add children for plain functions."""
        return await self.order("pool_grow", {"n": n})

    async def pool_shrink(self, n: int = 1) -> Answers[Any]:
        """Remove children for plain functions, each as soon as it is idle."""
        return await self.order("pool_shrink", {"n": n})

    async def add_consumer(self, queue: str) -> Answers[Any]:
        """Make workers also receive from a queue. Raises `UnknownQueue`."""
        await self.check_queues([queue])
        return await self.order("add_consumer", {"queue": queue})

    async def cancel_consumer(self, queue: str) -> Answers[Any]:
        """Make workers stop receiving from a queue. Raises `UnknownQueue`."""
        await self.check_queues([queue])
        return await self.order("cancel_consumer", {"queue": queue})

    async def log_level(self, level: str) -> Answers[Any]:
        """Set the log level of workers: "debug", "info", "warning", "error" or "critical"."""
        return await self.order("log_level", {"level": level})

    async def shutdown(self) -> Answers[Any]:
        """Stop workers as SIGTERM does: running tasks get their grace time, the rest returns to the broker."""
        return await self.order("shutdown")

    async def revoke(self, ids: Sequence[str]) -> None:
        """Prevent tasks from starting, on every worker, including workers that start later."""
        await self._app.control.arevoke(ids)

    async def terminate(self, ids: Sequence[str]) -> Answers[Any]:
        """Revoke tasks, and terminate their running attempts."""
        await self._app.control.arevoke(ids)
        return await self.order("terminate", {"ids": list(ids)})

    # --- Queues ---------------------------------------------------------------------------------------

    async def workers(self) -> list[WorkerInfo]:
        """Return the workers that hold a valid lease, sorted by name."""
        return sorted(await self._app.broker.operations().workers(), key=lambda worker: worker.name)

    async def queues(self) -> list[QueueCounts]:
        """Count the messages of every queue: those that the app declares, and any others in the broker."""
        counts = {name: QueueCounts(queue=name) for name in self._app.queues}
        counts.update({found.queue: found for found in await self._app.broker.operations().queues()})
        return [counts[name] for name in sorted(counts)]

    async def check_queues(self, queues: Sequence[str]) -> None:
        """Raise `UnknownQueue` for a queue that is not declared, not in the broker, and not served by a worker."""
        if all(queue in self._app.queues for queue in queues) or self._app.conf.task_create_missing_queues:
            return
        known = {counts.queue for counts in await self.queues()}
        known.update(queue for worker in await self.workers() for queue in worker.queues)
        for queue in queues:
            if queue not in known:
                raise UnknownQueue(queue, known)

    async def peek(self, queue: str, limit: int = 20, offset: int = 0) -> list[Message]:
        """Return the messages that workers would receive next. Raises `UnknownQueue`."""
        await self.check_queues([queue])
        return await self._app.broker.operations().peek(queue, limit, offset)

    async def scheduled(self, queue: str | None = None, limit: int = 20, offset: int = 0) -> list[Message]:
        """Return the messages that are not yet due, soonest first. Raises `UnknownQueue`."""
        if queue is not None:
            await self.check_queues([queue])
        return await self._app.broker.operations().scheduled(queue, limit, offset)

    async def purge(self, queues: Sequence[str]) -> dict[str, int]:
        """Delete ready and scheduled messages; return how many, by queue. Raises `UnknownQueue`.

        Their tasks end as REVOKED, so that nobody waits for them any more.
        """
        await self.check_queues(queues)
        return {queue: await purge(self._app, queue) for queue in dict.fromkeys(queues)}

    async def pause(self, queues: Sequence[str]) -> None:
        """Stop all workers from receiving from queues until they are resumed. Raises `UnknownQueue`."""
        await self.check_queues(queues)
        for queue in queues:
            await self._app.broker.operations().pause(queue)

    async def resume(self, queues: Sequence[str]) -> None:
        """Resume paused queues. Raises `UnknownQueue`."""
        await self.check_queues(queues)
        for queue in queues:
            await self._app.broker.operations().resume(queue)

    # --- Dead letters ---------------------------------------------------------------------------------

    async def dead(self, queue: str | None = None, limit: int = 20, offset: int = 0) -> list[Dead]:
        """Return dead letters, newest first. Raises `UnknownQueue`."""
        if queue is not None:
            await self.check_queues([queue])
        return await self._app.broker.operations().dead(queue, limit, offset)

    async def resend(self, ids: Sequence[str]) -> int:
        """Return dead letters to their queues as new messages; return how many were found."""
        if not self._app.broker.joins(self._app.backend):
            await self._app.backend.aforget(ids)  # a stored final outcome would make the backend reject the new one
        return await self._app.broker.operations().resend(ids)

    async def retry(self, ids: Sequence[str], by: str = "") -> Retried:
        """Send failed tasks again, as if they had never been tried, under their ids; resend dead letters.

        The history notes who did it: `by`.
        """
        sent: list[str] = []
        refused: dict[str, str] = {}
        for id, view in (await self.find(list(dict.fromkeys(ids)))).items():
            why = await self._send_again(id, view)
            if why is not None:
                refused[id] = why
                continue
            sent.append(id)
            if self._app.history is not None:
                await self._app.history.audit(Event(at=self._app.clock.now(), kind=RETRIED, id=id, by=by))
        return Retried(sent, refused)

    async def _send_again(self, id: str, view: TaskView) -> str | None:
        """Send a failed task again; return None, or why not."""
        outcome, now = view.outcome, self._app.clock.now()
        if view.place == "dead":
            return None if await self.resend([id]) else "it is no dead letter any more"
        if view.place is not None:
            return f"it is {view.place} in the queue {view.message.queue if view.message else ''!r}"
        if outcome is None:
            kept = await self._kept_in_history(id)
            if kept is None:
                return "its message is not kept: it has not failed, or too long ago, or was sent again since"
        elif outcome.place is not None:
            return f"it belongs to the workflow {outcome.place.workflow}: retry that"
        elif outcome.state != states.FAILURE:
            return f"it has not failed: it is {outcome.state}"
        elif outcome.kept is None:
            return "its message was not kept: `task_keep_failed` was not set, or it is larger than 256 KB"
        else:
            kept = outcome.kept
        try:
            message = anew(decode(kept))
        except Unreadable as error:
            return f"its message is unreadable: {error}"
        # It is published first, and its failure forgotten before it is due: a crash in between loses nothing.
        expires_at = message.expires_at if (message.expires_at or 0.0) > now else None
        await self._app.apublish([replace(message, due_at=now + RETRY_SECONDS, expires_at=expires_at)])
        await self._app.backend.aforget([id])
        return None

    async def _kept_in_history(self, id: str) -> bytes | None:
        """Return the message of a task whose outcome has expired, if it failed last, and was not sent again since."""
        if self._app.history is None:
            return None
        timeline = await self._app.history.timeline(id)
        last = timeline.attempts[-1] if timeline.attempts else None
        if last is None or any(event.kind == RETRIED and event.at >= last.done_at for event in timeline.events):
            return None
        return last.kept

    async def drop(self, ids: Sequence[str]) -> int:
        """Delete dead letters; return how many were found."""
        return await self._app.broker.operations().drop(ids)

    # --- Tasks ----------------------------------------------------------------------------------------

    async def find(self, ids: Sequence[str]) -> dict[str, TaskView]:
        """Return what is known about tasks: one view per id, in the order given. Raises `NotSupported` with `rpc://`."""
        self._check_readable()
        try:
            places = await self._app.broker.operations().find(ids)
        except NotSupported:
            places = {}  # the broker cannot find messages by id; still show what the backend knows
        outcomes = await self._app.backend.afetch(ids)
        views: dict[str, TaskView] = {}
        for one in ids:
            place, message = places.get(one, (None, None))
            views[one] = TaskView(one, place, message, outcomes.get(one))
        return views

    async def state(self, id: str) -> str:
        """Return a task's state; PENDING also if the id is unknown."""
        return (await self.find([id]))[id].state

    async def recent(self, limit: int = 20, offset: int = 0, state: str | None = None) -> list[Outcome]:
        """Return the most recently stored outcomes, newest first. Raises `NotSupported` with `rpc://`."""
        self._check_readable()
        return await self._app.backend.recent(limit, offset, state)

    def _check_readable(self) -> None:
        """Raise `NotSupported` if outcomes cannot be read from this process: an empty answer would be wrong."""
        if self._app.sends_outcomes:
            raise NotSupported("With rpc:// results go only to the caller. Set result_backend='redis://…' "
                               "to read them from other processes.")  # fmt: skip
