"""An outcome: how one attempt ended. The only thing that comes back.

Made in a child by `execution.py`, or by the supervisor where the child could not (killed, overdue, revoked);
settled by `worker/decide.py`; stored by a backend; read by `result.py`.
"""

from __future__ import annotations

import msgspec

from celeriac.model.failure import Failure
from celeriac.model.message import Message, Place
from celeriac.model.serialization import dumps
from celeriac.states import READY_STATES

__all__ = ["Outcome"]


class Outcome(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """How one attempt ended (or, in the states before the end, how far it is).

    `value` holds the encoded return value; with PROGRESS, what the task told; with RETRY nothing.
    """

    id: str
    task: str
    state: str
    attempt: int = 1
    value: bytes | None = None
    content_type: str = "application/json"
    failure: Failure | None = None
    retry_delay: float | None = None  # seconds; with RETRY alone
    requeue: bool = False  # with `Reject(requeue=True)` alone
    rejected: bool = False
    worker: str = ""
    started_at: float = 0.0
    done_at: float = 0.0
    runtime: float = 0.0  # seconds
    group_id: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    reply_to: str = ""  # the message's
    place: Place | None = None  # in a workflow
    cause: str | None = None  # the task was not run, for this one before it in its workflow has failed
    following: list[Message] = []  # with REPLACED alone: what is sent in the message's stead

    @property
    def ready(self) -> bool:
        """Whether nothing more happens after this."""
        return self.state in READY_STATES

    @classmethod
    def failed(cls, message: Message, error: BaseException, state: str, now: float, worker: str = "",
               runtime: float = 0.0) -> Outcome:  # fmt: skip
        """Make the outcome of an attempt that could not tell its own: killed, overdue, revoked, expired."""
        kind = type(error)
        return cls(id=message.id, task=message.task, state=state, attempt=message.attempt, worker=worker,
                   failure=Failure(kind.__module__, kind.__qualname__, str(error), dumps(list(error.args))),
                   done_at=now, started_at=now - runtime, runtime=runtime, group_id=message.group_id,
                   parent_id=message.parent_id, root_id=message.root_id, reply_to=message.reply_to,
                   place=message.place)  # fmt: skip

    def exception(self) -> BaseException | None:
        """Return the exception that ended the attempt, or None."""
        return self.failure.exception() if self.failure is not None else None

