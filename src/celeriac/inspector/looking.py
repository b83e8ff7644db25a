"""Looks into a running system: workers, queues, dead letters, tasks. Changes nothing.

Queries to workers are broadcast (`app/control.py`), and the replies come back as `Answers`. Queues and dead letters are
read through the broker's second port, `Operations`; outcomes come from the backend.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from celeriac.app.control import Reply, read_reply
from celeriac.errors import NotSupported, UnknownQueue
from celeriac.inspector.views import ActiveTask, Answers, ReservedTask, TaskView, WorkerLoad, WorkerStats
from celeriac.model.clock import Duration, seconds
from celeriac.model.message import Message, new_id
from celeriac.model.options import count, several
from celeriac.model.outcome import Outcome
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.broker import MISSED
from celeriac.ports.operations import Dead, QueueCounts, WorkerInfo, labelled

if TYPE_CHECKING:
    from celeriac.app.app import Celeriac

__all__ = ["Looking"]

warnings = RepeatedWarnings(logging.getLogger("celeriac.inspector"))

T = TypeVar("T")


class Looking:
    """The half of `Inspector` that looks.

    Queries go to the workers named in `destination` (None: all), which have `timeout` seconds to reply.
    """

    def __init__(self, app: Celeriac, destination: str | Sequence[str] | None = None, timeout: Duration = 2.0) -> None:
        self._app = app
        self.destination = None if destination is None else several(destination)
        self.timeout = seconds(timeout, "timeout")

    # --- Workers -----------------------------------------------------------------------------

    async def ask(self, name: str, arguments: Mapping[str, Any] | None = None,
                  destination: str | Sequence[str] | None = None, timeout: Duration | None = None,
                  ) -> dict[str, Reply]:  # fmt: skip
        """Send a control command, and return the replies by worker name.

        Returns when every running worker in `destination` has replied, or after `timeout` seconds. Workers of one name
        have their pids and hosts after it.
        """
        wanted = None if destination is None else several(destination)
        workers = {
            label: worker
            for label, worker in labelled(await self.workers()).items()
            if wanted is None or worker.name in wanted
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
                            warnings.warn("Ignored an unreadable reply to a control command: %s", error)
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

    # --- Queues ---------------------------------------------------------------------------------------

    async def workers(self) -> list[WorkerInfo]:
        """Return the workers that hold a valid lease, sorted by name."""
        return sorted(await self._app.broker.operations().workers(), key=lambda worker: worker.name)

    async def queues(self) -> list[QueueCounts]:
        """Count the messages of every queue: those that the app declares, and any others in the broker."""
        counts = {name: QueueCounts(queue=name) for name in self._app.queues}
        counts.update({found.queue: found for found in await self._app.broker.operations().queues()})
        return [counts[name] for name in sorted(counts)]

    async def check_queues(self, queues: str | Sequence[str]) -> None:
        """Raise `UnknownQueue` for a queue that is not declared, not in the broker, and not served by a worker."""
        queues = several(queues)
        if all(queue in self._app.queues for queue in queues) or self._app.conf.task_create_missing_queues:
            return
        known = {counts.queue for counts in await self.queues()}
        known.update(queue for worker in await self.workers() for queue in worker.queues)
        for queue in queues:
            if queue not in known:
                raise UnknownQueue(queue, known)

    async def peek(self, queue: str, limit: int = 20, offset: int = 0) -> list[Message]:
        """Return the messages that workers would receive next. Raises `UnknownQueue`."""
        _check_range(limit, offset)
        await self.check_queues([queue])
        return await self._app.broker.operations().peek(queue, limit, offset)

    async def scheduled(self, queue: str | None = None, limit: int = 20, offset: int = 0) -> list[Message]:
        """Return the messages that are not yet due, soonest first. Raises `UnknownQueue`."""
        _check_range(limit, offset)
        if queue is not None:
            await self.check_queues([queue])
        return await self._app.broker.operations().scheduled(queue, limit, offset)

    async def dead(self, queue: str | None = None, limit: int = 20, offset: int = 0) -> list[Dead]:
        """Return dead letters, newest first. Raises `UnknownQueue`."""
        _check_range(limit, offset)
        if queue is not None:
            await self.check_queues([queue])
        return await self._app.broker.operations().dead(queue, limit, offset)

    # --- Tasks ----------------------------------------------------------------------------------------

    async def find(self, ids: str | Sequence[str]) -> dict[str, TaskView]:
        """Return what is known about tasks: one view per id, in the order given. Raises `NotSupported` with `rpc://`."""
        self._check_readable()
        ids = several(ids)
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
        _check_range(limit, offset)
        self._check_readable()
        return await self._app.backend.recent(limit, offset, state)

    def _check_readable(self) -> None:
        """Raise `NotSupported` if outcomes cannot be read from this process: an empty answer would be wrong."""
        if self._app.sends_outcomes:
            raise NotSupported("With rpc:// results go only to the caller. Set result_backend='redis://…' "
                               "to read them from other processes.")  # fmt: skip


def _check_range(limit: int, offset: int) -> None:
    """Raise `ValueError` for a part of a list that cannot be: servers treat a negative one each in its own way."""
    count(limit, "limit")
    count(offset, "offset")
