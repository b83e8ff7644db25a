"""Changes a running system: commands to workers, queues, dead letters, tasks that are sent again.

Commands to workers are broadcast (`app/control.py`); the rest goes through the broker's second port, `Operations`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from celeriac import states
from celeriac.app.control import in_commands
from celeriac.app.purging import purge
from celeriac.errors import CeleriacError
from celeriac.inspector.audit import RETRIED
from celeriac.inspector.explaining import explain
from celeriac.inspector.explanation import Explanation
from celeriac.inspector.facts import FactFinder
from celeriac.inspector.views import Answers, TaskView
from celeriac.model.clock import Duration, limit
from celeriac.model.gate import Unreadable
from celeriac.model.history import Event
from celeriac.model.message import Message, decode
from celeriac.model.options import check_limits, several
from celeriac.ports.abilities import Ability
from celeriac.ports.operations import QueueCounts, anew

__all__ = ["Inspector", "Retried"]

log = logging.getLogger("celeriac.inspector")

RETRY_SECONDS = 1.0  # until a failed task runs that is sent again
RETRIED_AT_ONCE = 100  # so that their failures are forgotten within that time


class Retried(msgspec.Struct, frozen=True):
    """Which tasks were sent again, and why others were not."""

    sent: list[str]
    refused: dict[str, str]


class Inspector(FactFinder):
    """Inspects and operates an app's workers, queues and tasks.

    Commands go to the workers named in `destination` (None: all), which have `timeout` seconds to reply.
    """

    async def explain(self, id: str, *, workflow: str | None = None, task: str | None = None, queue: str | None = None,
                      counts: Sequence[QueueCounts] | None = None) -> Explanation:  # fmt: skip
        """Return why a task is not running, or what has happened to it. The arguments are those of `facts`."""
        return explain(await self.facts(id, workflow=workflow, task=task, queue=queue, counts=counts))

    # --- Workers ----------------------------------------------------------------------------

    async def order(self, name: str, arguments: Mapping[str, Any] | None = None) -> Answers[Any]:
        """Send a control command by name, and return the replies unparsed."""
        return await self._answers(object, name, arguments)

    async def rate_limit(self, task: str, rate: str | float | None) -> Answers[Any]:
        """Limit how many attempts of a task each worker starts per unit of time: `"10/s"`; None: no limit."""
        return await self.order("rate_limit", {"task": task, "rate": rate})

    async def time_limit(self, task: str, soft: Duration | None, hard: Duration | None) -> Answers[Any]:
        """Set a task's time limits (None: no limit), for attempts that start from now on. Raises `ValueError`."""
        limits = {"soft": limit(soft, "soft"), "hard": limit(hard, "hard")}
        check_limits(limits["soft"], limits["hard"])
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

    async def revoke(self, ids: str | Sequence[str]) -> None:
        """Prevent tasks from starting, on every worker, including workers that start later."""
        await self._app.control.arevoke(ids)

    async def terminate(self, ids: str | Sequence[str]) -> Answers[Any]:
        """Revoke tasks, and terminate their running attempts."""
        await self._app.control.arevoke(ids)
        *first, last = in_commands(several(ids))
        for some in first:
            await self._app.control.send("terminate", {"ids": some}, destination=self.destination)
        return await self.order("terminate", {"ids": last})  # who replies has carried out the others before

    # --- Queues ---------------------------------------------------------------------------------------

    async def purge(self, queues: str | Sequence[str]) -> dict[str, int]:
        """Delete ready and scheduled messages; return how many, by queue. Raises `UnknownQueue`.

        Their tasks end as REVOKED, so that nobody waits for them any more.
        """
        await self.check_queues(queues)
        return {queue: await purge(self._app, queue) for queue in dict.fromkeys(several(queues))}

    async def run_now(self, ids: str | Sequence[str]) -> int:
        """Let scheduled tasks start before they are due; return how many there were. Raises `NotSupported`."""
        return await self._app.broker.operations().run_now(several(ids))

    async def move(self, ids: str | Sequence[str], queue: str) -> int:
        """Move waiting messages to another queue; return how many there were. Raises `UnknownQueue`, `NotSupported`."""
        await self.check_queues([queue])
        return await self._app.broker.operations().move(several(ids), queue)

    async def pause(self, queues: str | Sequence[str]) -> None:
        """Stop all workers from receiving from queues until they are resumed. Raises `UnknownQueue`."""
        await self.check_queues(queues)
        for queue in several(queues):
            await self._app.broker.operations().pause(queue)

    async def resume(self, queues: str | Sequence[str]) -> None:
        """Resume paused queues. Raises `UnknownQueue`."""
        await self.check_queues(queues)
        for queue in several(queues):
            await self._app.broker.operations().resume(queue)

    # --- Dead letters ---------------------------------------------------------------------------------

    async def resend(self, ids: str | Sequence[str]) -> int:
        """Return dead letters to their queues as new messages; return how many were found."""
        ids, operations, backend = several(ids), self._app.broker.operations(), self._app.backend
        if not self._app.broker.joins(backend):
            # A stored final outcome would make the backend reject the new one.
            if self._app.broker.can(Ability.KNOW_IDS):
                ids = [id for id, (place, _) in (await operations.find(ids)).items() if place == "dead"]
                await backend.aforget(ids)
            else:  # some may be no dead letters any more, and have succeeded since
                outcomes = await backend.afetch(ids)
                await backend.aforget([id for id, outcome in outcomes.items() if outcome.state == states.FAILURE])
        return await operations.resend(ids)

    async def drop(self, ids: str | Sequence[str]) -> int:
        """Delete dead letters; return how many were found."""
        return await self._app.broker.operations().drop(several(ids))

    # --- Tasks ----------------------------------------------------------------------------------------

    async def retry(self, ids: str | Sequence[str], by: str = "", queue: str | None = None,
                    before: float | None = None) -> Retried:  # fmt: skip
        """Send failed tasks again, as if they had never been tried, under their ids; resend dead letters.

        They go to their own queue, or to `queue`; those that ended after `before` are refused. The history notes who
        did it: `by`.
        """
        if queue is not None:
            await self.check_queues([queue])
        wanted, done = list(dict.fromkeys(several(ids))), Retried([], {})
        for start in range(0, len(wanted), RETRIED_AT_ONCE):
            await self._retry(wanted[start : start + RETRIED_AT_ONCE], by, queue, before, done)
        return done

    async def _retry(self, ids: Sequence[str], by: str, queue: str | None, before: float | None,
                     done: Retried) -> None:  # fmt: skip
        sent: list[str] = []
        messages: list[Message] = []
        due_at = self._app.clock.now() + RETRY_SECONDS
        for id, view in (await self.find(ids)).items():
            if view.place == "dead":
                found: Message | str | None = await self._resent(id, queue)
            else:
                found = await self._message_of(id, view, before)
            if isinstance(found, str):
                done.refused[id] = found
                continue
            sent.append(id)
            if found is None:
                continue
            expires_at = found.expires_at if (found.expires_at or 0.0) > due_at - RETRY_SECONDS else None
            messages.append(replace(found, queue=queue or found.queue, due_at=due_at, expires_at=expires_at))
        if messages:
            # They are published first, and their failures forgotten before they are due: a crash between loses nothing.
            await self._app.apublish(messages)
            await self._app.backend.aforget([message.id for message in messages])
        done.sent.extend(sent)
        await self._note(sent, by)

    async def _note(self, sent: Sequence[str], by: str) -> None:
        """Write down which tasks were sent again, as best it can: they are sent."""
        if self._app.history is None:
            return
        try:
            for id in sent:
                await self._app.history.audit(Event(at=self._app.clock.now(), kind=RETRIED, id=id, by=by))
        except CeleriacError as error:
            log.warning("That %d tasks were sent again is missing in the audit: %s", len(sent), error)

    async def _resent(self, id: str, queue: str | None) -> str | None:
        """Resend a dead letter; return None, or why not."""
        if queue is not None:
            return "it is a dead letter, which goes to its own queue: leave `queue` out"
        return None if await self.resend([id]) else "it is no dead letter any more"

    async def _message_of(self, id: str, view: TaskView, before: float | None) -> Message | str:
        """Return the message of a failed task as it is sent again, or why it is not."""
        outcome = view.outcome
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
        elif before is not None and outcome.done_at > before:
            return "it has failed again since"
        elif outcome.kept is None:
            return "its message was not kept: `task_keep_failed` was not set, or it is larger than 256 KB"
        else:
            kept = outcome.kept
        try:
            return anew(decode(kept))
        except Unreadable as error:
            return f"its message is unreadable: {error}"

    async def _kept_in_history(self, id: str) -> bytes | None:
        """Return the message of a task whose outcome has expired, if it failed last, and was not sent again since."""
        if self._app.history is None:
            return None
        timeline = await self._app.history.timeline(id)
        last = timeline.attempts[-1] if timeline.attempts else None
        if last is None or any(event.kind == RETRIED and event.at >= last.done_at for event in timeline.events):
            return None
        return last.kept
