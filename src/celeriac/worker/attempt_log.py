"""Logs how attempts ended. Of many failures of one kind, the first few are logged in full, and the others counted.

`Settler` calls it for what was settled. The records carry the facts about the attempt, for handlers that show them:
`JSONFormatter` shows all.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.errors import NotRegistered, nearest
from celeriac.logs import facts_of, shortened
from celeriac.model.failure import Failure
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.worker.statistics import wait_of

__all__ = ["AttemptLog"]

log = logging.getLogger("celeriac.worker")

FULL = 5  # failures of one kind that are logged in full, within a period
PERIOD = 10.0  # seconds, after which those are counted that were not


class _Kind(msgspec.Struct):
    """The failures of one kind in this period."""

    told: int = 0
    counted: int = 0
    last: tuple[str, str] = ("", "")  # the id of the last one that was counted, and what happened


class AttemptLog:
    """The log of ended attempts of one worker."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        self._kinds: dict[tuple[str, str], _Kind] = {}  # by task, and what happens to it
        self._timer: asyncio.TimerHandle | None = None

    def ended(self, message: Message, outcome: Outcome) -> None:
        """Log an outcome: a failure as an error, all others as information."""
        where, failure = f"{outcome.task}[{outcome.id}]", outcome.failure
        if failure is None or outcome.state in (states.RETRY, states.REVOKED):
            facts = _facts_of_end(message, outcome)
        if outcome.state == states.SUCCESS:
            log.info("%s succeeded in %.3f s", where, outcome.runtime, extra=facts)
        elif failure is None:
            log.info("%s ended: %s", where, outcome.state, extra=facts)
        elif outcome.state == states.RETRY:
            log.info("%s will be retried in %.1f s (%s): %s: %s", where, outcome.retry_delay or 0.0,
                     self._next_attempt(message), failure.type, failure.message, extra=facts)  # fmt: skip
        elif outcome.state == states.REVOKED:
            log.info("%s was revoked: %s", where, failure.message, extra=facts)
        elif self._is_in_full(message, f"failed with {failure.type}", failure.message):
            _log_failure(where, failure, _facts_of_end(message, outcome))

    def lost(self, message: Message, why: str) -> None:
        """Log that the process of an attempt died, and the task runs again."""
        if self._is_in_full(message, "lost its process", why):
            log.error("The process that ran %s[%s] died: %s; the task runs again", message.task, message.id, why,
                      extra=_facts(message, "task.lost"))  # fmt: skip

    def unknown(self, message: Message, error: NotRegistered) -> None:
        """Log that no task of this name is registered here."""
        why = (f"Is its module imported, or named in the setting `imports` or in `app.autodiscover_tasks`?"
               f"{nearest(message.task, error.known)} Is another app using this broker_url?")  # fmt: skip
        if self._is_in_full(message, "is not registered here and was received", why):
            log.warning("No task named %s is registered here; the message %s goes back to its queue. %s",
                        message.task, message.id, why, extra=_facts(message, "task.unknown"))  # fmt: skip

    def sum_up(self) -> None:
        """Log how many failures of each kind were not logged in full. What goes on in this way stays summed up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        going_on: dict[tuple[str, str], _Kind] = {}
        for (task, what), kind in self._kinds.items():
            if kind.counted:
                id, why = kind.last
                log.error("%s %s %d more times within %g s; the last was [%s]: %s", task, what, kind.counted, PERIOD,
                          id, why, extra={"event_name": "task.repeated", "task_name": task, "task_id": id,
                                          "count": kind.counted})  # fmt: skip
                going_on[task, what] = _Kind(told=FULL)
        self._kinds = going_on
        if going_on:
            self._wait()

    def _is_in_full(self, message: Message, what: str, why: str) -> bool:
        """Return whether to log a failure in full; count it otherwise."""
        kind = self._kinds.setdefault((message.task, what), _Kind())
        if self._timer is None:
            self._wait()
        if kind.told < FULL:
            kind.told += 1
            return True
        kind.counted += 1
        kind.last = message.id, why
        return False

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self.sum_up)

    def _next_attempt(self, message: Message) -> str:
        """Return the number of the attempt that follows, and how many there may be.

        The task may have been told to retry more often than its options allow, or not be registered here.
        """
        number, task = message.attempt + 1, self._app.tasks.get(message.task)
        most = task.retry_policy(message).max_retries if task is not None else None
        return f"attempt {number}" if most is None or number > most + 1 else f"attempt {number} of {most + 1}"


def _log_failure(where: str, failure: Failure, facts: dict[str, Any]) -> None:
    """Log a failure. Handlers find the traceback, which was made in the child, where they find others."""
    if log.isEnabledFor(logging.ERROR):
        record = log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s failed: %s: %s",
                                (where, failure.type, failure.message), None, extra=facts)  # fmt: skip
        record.exc_text = failure.traceback.rstrip() or None
        log.handle(record)


def _facts(message: Message, event: str) -> dict[str, Any]:
    """Return the facts about a message that did not end."""
    return {"event_name": event, "task_name": message.task, "task_id": message.id, **facts_of(message),
            **_trace(message, "")}  # fmt: skip


def _facts_of_end(message: Message, outcome: Outcome) -> dict[str, Any]:
    """Return the facts about an attempt that has ended."""
    event = "task.retried" if outcome.state == states.RETRY else "task.ended"
    facts = {**_facts(message, event), **_trace(message, outcome.trace), "state": outcome.state}
    if outcome.runtime > 0.0:  # it was run
        facts |= {"runtime_s": round(outcome.runtime, 6), "wait_s": round(wait_of(message, outcome), 6)}
    failure = outcome.failure
    if failure is not None:
        kind = failure.type if failure.module == "builtins" else f"{failure.module}.{failure.type}"
        facts |= {"error_type": kind, "error": shortened(failure.message)}
        facts |= {"signature": failure.signature} if failure.signature else {}
    return facts


def _trace(message: Message, of_attempt: str) -> dict[str, Any]:
    """Return the ids of the span of an attempt; those of its send, if that is all that is known."""
    parts = str(of_attempt or message.headers.get("traceparent", "")).split("-")
    return {"trace_id": parts[1], "span_id": parts[2]} if [*map(len, parts)] == [2, 32, 16, 2] else {}
