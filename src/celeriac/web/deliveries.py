"""Deliveries as JSON for remote workers, and what these say of their ends as endings.

`leases.py` calls it. What a child does for the task that it ran (encode the value, describe the exception, ask the
retry policy), this does for a client that sends JSON.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.documents import instant
from celeriac.errors import CeleriacError, DecodeError, EncodeError, TaskRevoked, TimeLimitExceeded
from celeriac.model.compression import method
from celeriac.model.failure import MESSAGE_LIMIT, TRACEBACK_LIMIT, Failure
from celeriac.model.failure_signature import message_signature
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.retry import RetryPolicy
from celeriac.model.serialization import dumps, loads
from celeriac.ports.broker import Delivery
from celeriac.tasks.execution import compress_value
from celeriac.web.lease_shapes import Ended, RemoteError
from celeriac.worker.decide import Ending
from celeriac.worker.remote_receiver import call_of

__all__ = ["delivery_document", "ending_of", "state_of"]

TERMINATED: Final = "The task was terminated."


def delivery_document(token: str, delivery: Delivery, app: Celeriac) -> dict[str, Any]:
    """Return what a remote worker needs to know of a delivery."""
    message = delivery.message
    args, kwargs = call_of(app, message)
    return {
        "token": token,
        "id": message.id,
        "task": message.task,
        "args": args,
        "kwargs": kwargs,
        "queue": message.queue,
        "priority": message.priority,
        "attempt": message.attempt,
        "max_retries": _policy(app, message).max_retries,
        "deliveries": delivery.deliveries,
        "sent_at": instant(message.sent_at),
        "expires_at": instant(message.expires_at),
        "time_limit": message.time_limit,
        "soft_time_limit": message.soft_time_limit,
        "headers": message.headers,
        "parent_id": message.parent_id,
        "root_id": message.root_id,
        "group_id": message.group_id,
        "failed": _failed(message),
    }


def _failed(message: Message) -> dict[str, Any] | None:
    failed = message.failed
    if failed is None:
        return None
    failure = failed.failure
    error = {"type": failure.type, "module": failure.module, "message": failure.message}
    return {"id": failed.id, "task": failed.task, "attempt": failed.attempt, "error": error,
            "traceback": failure.traceback}  # fmt: skip


def _policy(app: Celeriac, message: Message) -> RetryPolicy:
    """Return how often a message is retried: as its task says, if it is registered in this app."""
    task = app.tasks.get(message.task)
    if task is not None:
        return task.retry_policy(message)
    policy = RetryPolicy.of({}, app.conf.task_max_retries)
    return policy if message.max_retries is None else replace(policy, max_retries=message.max_retries)


# --- Endings ------------------------------------------------------------------------------------------


def ending_of(app: Celeriac, worker: str, delivery: Delivery, ended: Ended, now: float) -> Ending:
    """Return the ending that a remote worker reports. Not for PROGRESS, which ends nothing."""
    message = delivery.message
    made = _outcome(worker, message, ended, now)
    match ended.state:
        case "SUCCESS":
            made = _with_value(app, message, made, ended.result)
        case "FAILURE":
            made.failure = _failure(message, ended.error)
        case "RETRY":
            made.failure = _failure(message, ended.error)
            policy = _policy(app, message)
            if policy.allows(message.attempt):
                made.state = states.RETRY
                made.retry_delay = policy.delay_after(message.attempt) if ended.delay is None else ended.delay
        case "IGNORED":
            made.state = states.IGNORED
        case "REJECTED":
            made.failure, made.rejected, made.requeue = _failure(message, ended.error), True, ended.requeue
        case "REVOKED":
            return _stopped(worker, delivery, TaskRevoked(TERMINATED), states.REVOKED, ended, now)
        case "TIMEOUT":
            limit = f" of {message.time_limit:g} s" if message.time_limit is not None else ""
            error = TimeLimitExceeded(f"The hard time limit{limit} has passed.")
            return _stopped(worker, delivery, error, states.FAILURE, ended, now)
        case "LOST":
            why = ended.error.message if ended.error is not None and ended.error.message else "its process died"
            return Ending(delivery=delivery, lost=why[:MESSAGE_LIMIT])
        case _:
            return Ending(delivery=delivery, given_back=True,
                          due_at=now + ended.delay if ended.delay is not None else None)  # fmt: skip
    return Ending(delivery=delivery, outcome=made)


def state_of(worker: str, message: Message, ended: Ended, now: float) -> Outcome:
    """Return a PROGRESS that a remote worker reports."""
    made = _outcome(worker, message, ended, now)
    made.state, made.done_at, made.value = states.PROGRESS, 0.0, _encoded(ended.result)
    return made


def _outcome(worker: str, message: Message, ended: Ended, now: float) -> Outcome:
    """Return the outcome of an attempt that ends now, by the clock of this machine, as a success or a failure."""
    state = states.SUCCESS if ended.state == "SUCCESS" else states.FAILURE
    runtime = min(ended.runtime, max(0.0, now - message.sent_at))
    return Outcome(id=message.id, task=message.task, state=state, attempt=message.attempt, worker=worker,
                   started_at=now - runtime, done_at=now, runtime=runtime, group_id=message.group_id,
                   parent_id=message.parent_id, root_id=message.root_id, reply_to=message.reply_to,
                   place=message.place)  # fmt: skip


def _stopped(worker: str, delivery: Delivery, error: CeleriacError, state: str, ended: Ended, now: float) -> Ending:
    outcome = Outcome.failed(delivery.message, error, state, now, worker, ended.runtime)
    return Ending(delivery=delivery, outcome=outcome, killed=True)


def _with_value(app: Celeriac, message: Message, made: Outcome, result: Any) -> Outcome:
    """Return a success with its value; a failure if that is too large."""
    value = _encoded(result)
    if len(value) > app.conf.result_max_bytes:
        error = EncodeError(
            f"{message.task} returned {len(value):,} bytes, more than `result_max_bytes` allows "
            f"({app.conf.result_max_bytes:,}). Store the data, and return its path or key."
        )
        return replace(made, state=states.FAILURE, failure=Failure.of(error, message.task))
    made.value = value
    if app.conf.result_compression is not None and not message.gives_result:
        compress_value(made, method(app.conf.result_compression))
    return made


def _encoded(value: Any) -> bytes:
    """Return a value as JSON. Tags (`{"$uuid": …}`) stay tags; an object that only looks like one is escaped."""
    encoded = msgspec.json.encode(value)
    if b'"$' in encoded:
        try:
            loads(encoded)
        except DecodeError:
            return dumps(value)
    return encoded


def _failure(message: Message, error: RemoteError | None) -> Failure:
    """Return the failure of an error in another language. Python raises it as a `RemoteError`."""
    told = error or RemoteError()
    text = told.message[:MESSAGE_LIMIT]
    return Failure(told.module, told.type, text, None, told.traceback[-TRACEBACK_LIMIT:],
                   signature=message_signature(message.task, told.type, text))  # fmt: skip
