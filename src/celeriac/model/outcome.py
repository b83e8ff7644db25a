"""An outcome: how one attempt ended. It is the only value that comes back to the caller.

`execution.py` makes it in a child. The supervisor makes it for attempts that a child cannot report (killed, past the
hard time limit, revoked, expired), and `canvas/advance.py` for tasks of a workflow that are not run. `worker/decide.py`
turns it into a settlement, a backend stores it, `result.py` reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from celeriac import states
from celeriac.errors import DecodeError
from celeriac.lazy import LazyModule
from celeriac.model.compression import decompress
from celeriac.model.failure import Failure
from celeriac.model.gate import LARGEST, Address, AttemptOrNone, Duration, Instant, Name, OptionalName, reader
from celeriac.model.message import Message, Place
from celeriac.model.serialization import dumps

if TYPE_CHECKING:
    from celeriac.model import failure_signature
else:
    failure_signature = LazyModule("celeriac.model.failure_signature")

__all__ = ["WHOLE_CALLS", "Call", "Outcome", "decode_outcome", "encode_outcome", "unreadable_outcome"]


MOST_CALL_BYTES = 65_536  # of arguments that are stored with an outcome

WHOLE_CALLS = frozenset({"django.run", "django.arun"})
"""The tasks of `contrib/django`: their results say what was called, and so their arguments are stored however large."""


class Call(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What an outcome says of its message, with `result_extended`."""

    queue: Name = "default"
    sent_at: Instant = 0.0
    body: bytes | None = None  # the encoded arguments; None: they are too large to be stored twice
    content_type: OptionalName = "application/json"

    @classmethod
    def of(cls, message: Message) -> Call:
        """Return what is kept of a message."""
        body = message.body if len(message.body) <= MOST_CALL_BYTES or message.task in WHOLE_CALLS else None
        return cls(message.queue, message.sent_at, body, message.content_type)


class Outcome(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """How one attempt ended or, in the states before the end, how far it is.

    `value` is the encoded return value, compressed or not; in PROGRESS and custom states, the encoded `meta`; in RETRY,
    None.
    """

    id: Name
    task: Name
    state: Name
    attempt: AttemptOrNone = 1
    value: bytes | None = None
    content_type: OptionalName = "application/json"
    compression: OptionalName = ""  # the method with which `value` is compressed
    failure: Failure | None = None
    retry_delay: Duration | None = None  # seconds; in RETRY only
    requeue: bool = False  # the task raised `Reject(requeue=True)`
    rejected: bool = False  # the task raised `Reject`
    worker: OptionalName = ""
    started_at: Instant = 0.0
    done_at: Instant = 0.0
    runtime: Instant = 0.0  # seconds
    group_id: Name | None = None
    parent_id: Name | None = None
    root_id: Name | None = None
    reply_to: Address = ""  # of the message
    call: Call | None = None  # with `result_extended`
    place: Place | None = None  # set in a workflow
    cause: Name | None = None  # id of the earlier task of its workflow whose failure is why this one was not run
    trace: OptionalName = ""  # the trace and the span of the attempt, as a `traceparent`, if it was traced
    kept: bytes | None = None  # in FAILURE: the message, so that it can be sent again (`task_keep_failed`)
    following: list[Message] = []  # in REPLACED: what replaces the message; in RETRY: the next attempt, if changed

    @property
    def ready(self) -> bool:
        """Whether nothing more happens after this."""
        return self.state in states.READY_STATES

    def encoded_value(self, limit: int = LARGEST) -> bytes | None:
        """Return the encoded value as it was before compression. Raises `DecodeError` for more than `limit` bytes."""
        if not self.compression or self.value is None:
            return self.value
        return decompress(self.compression, self.value, limit)

    def without_arguments(self) -> Outcome:
        """Return the outcome without arguments that are large, for a server that refuses so much; else itself."""
        call = self.call
        if call is None or call.body is None or len(call.body) <= MOST_CALL_BYTES:
            return self
        return replace(self, call=replace(call, body=None))

    def next_attempt(self, message: Message) -> Message:
        """Return the message of the attempt that follows a RETRY."""
        return replace(self.following[0] if self.following else message, attempt=message.attempt + 1)

    @classmethod
    def failed(cls, message: Message, error: BaseException, state: str, now: float, worker: str = "",
               runtime: float = 0.0) -> Outcome:  # fmt: skip
        """Return the outcome of an attempt that no child reports: killed, past its time limit, revoked, expired."""
        kind, text = type(error), str(error)
        signature = ""
        if state == states.FAILURE:
            signature = failure_signature.message_signature(message.task, kind.__qualname__, text)
        failure = Failure(kind.__module__, kind.__qualname__, text, dumps(list(error.args)), signature=signature)
        return cls(id=message.id, task=message.task, state=state, attempt=message.attempt, worker=worker,
                   failure=failure,
                   done_at=now, started_at=now - runtime, runtime=runtime, group_id=message.group_id,
                   parent_id=message.parent_id, root_id=message.root_id, reply_to=message.reply_to,
                   place=message.place)  # fmt: skip

    def exception(self) -> BaseException | None:
        """Return the exception that ended the attempt, or None."""
        return self.failure.exception() if self.failure is not None else None


encode_outcome: Callable[[Outcome], bytes] = msgspec.msgpack.Encoder().encode
"""Return an outcome as bytes (msgpack), for stores and queues."""

decode_outcome: Callable[[bytes | memoryview], Outcome] = reader(Outcome, "an outcome")
"""Return the outcome from such bytes. Raises `Unreadable`, a `ValueError`."""


def unreadable_outcome(id: str, error: Exception) -> Outcome:
    """Return what stands for the stored outcome of a task that cannot be read: a failure, which `get` raises."""
    why = DecodeError(f"The stored outcome of the task {id} is unreadable: {error}.")
    return Outcome(id=id, task="(unreadable)", state=states.FAILURE, failure=Failure.of(why))
