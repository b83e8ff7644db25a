"""An outcome: how one attempt ended. It is the only value that comes back to the caller.

`execution.py` makes it in a child. The supervisor makes it for attempts that a child cannot report (killed, past the
hard time limit, revoked, expired), and `canvas/advance.py` for tasks of a workflow that are not run. `worker/decide.py`
turns it into a settlement, a backend stores it, `result.py` reads it.
"""

from __future__ import annotations

import msgspec

from celeriac.model.failure import Failure
from celeriac.model.message import Message, Place
from celeriac.model.serialization import dumps
from celeriac.states import READY_STATES

__all__ = ["Outcome"]


class Outcome(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """How one attempt ended or, in the states before the end, how far it is.

    `value` is the encoded return value; in PROGRESS and custom states, the encoded `meta`; in RETRY, None.
    """

    id: str
    task: str
    state: str
    attempt: int = 1
    value: bytes | None = None
    content_type: str = "application/json"
    failure: Failure | None = None
    retry_delay: float | None = None  # seconds; in RETRY only
    requeue: bool = False  # the task raised `Reject(requeue=True)`
    rejected: bool = False  # the task raised `Reject`
    worker: str = ""
    started_at: float = 0.0
    done_at: float = 0.0
    runtime: float = 0.0  # seconds
    group_id: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    reply_to: str = ""  # of the message
    place: Place | None = None  # set in a workflow
    cause: str | None = None  # id of the earlier task of its workflow whose failure is why this one was not run
    following: list[Message] = []  # in REPLACED only: the messages that replace this task's

    @property
    def ready(self) -> bool:
        """Whether nothing more happens after this."""
        return self.state in READY_STATES

    @classmethod
    def failed(cls, message: Message, error: BaseException, state: str, now: float, worker: str = "",
               runtime: float = 0.0) -> Outcome:  # fmt: skip
        """Return the outcome of an attempt that no child reports: killed, past its time limit, revoked, expired."""
        kind = type(error)
        return cls(id=message.id, task=message.task, state=state, attempt=message.attempt, worker=worker,
                   failure=Failure(kind.__module__, kind.__qualname__, str(error), dumps(list(error.args))),
                   done_at=now, started_at=now - runtime, runtime=runtime, group_id=message.group_id,
                   parent_id=message.parent_id, root_id=message.root_id, reply_to=message.reply_to,
                   place=message.place)  # fmt: skip

    def exception(self) -> BaseException | None:
        """Return the exception that ended the attempt, or None."""
        return self.failure.exception() if self.failure is not None else None

