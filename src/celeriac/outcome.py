"""An outcome: how one attempt ended. The only thing that comes back.

Made in a child by `execution.py`, or by the supervisor where the child could not (killed, overdue, revoked);
settled by `worker/settle.py`; stored by a backend; read by `result.py`.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from typing import Any

import msgspec

from celeriac.errors import RemoteError
from celeriac.message import Message
from celeriac.serialization import dumps, loads
from celeriac.states import READY_STATES

__all__ = ["Failure", "Outcome"]

TRACEBACK_LIMIT = 16_000  # characters; the middle of a longer one is cut
MESSAGE_LIMIT = 4_000  # characters


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception in a form that travels: it cannot fail to be made, whatever was raised."""

    module: str
    type: str
    message: str
    args: bytes | None = None  # the exception's `args`, encoded; None where they cannot be
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception; one with a broken `__str__` or unserialisable arguments too."""
        kind = type(error)
        try:
            message = _message_of(error)
        except Exception:  # noqa: BLE001 - the user's own __str__
            message = "(the exception's __str__ failed)"
        args: bytes | None
        try:
            args = dumps(list(error.args))
        except Exception:  # noqa: BLE001 - the user's own objects
            args = None
        if args is not None and len(args) > TRACEBACK_LIMIT:
            args = None
        return cls(str(kind.__module__), kind.__qualname__, message, args, _traceback_of(error))

    def exception(self) -> BaseException:
        """Return the exception as its own class where that can be rebuilt, else a `RemoteError`.

        What is no `Exception` (`SystemExit`, `KeyboardInterrupt`, `CancelledError`) comes as a `RemoteError` too:
        the end of a task must not end whoever asks for its result.
        """
        kind = self._class()
        if kind is not None and self.args is not None:
            try:
                rebuilt = kind(*loads(self.args))
                if _message_of(rebuilt) == self.message:
                    return rebuilt
            except Exception:  # noqa: BLE001 - a constructor of the user's own that wants other arguments
                pass
        name = self.type if self.module == "builtins" else f"{self.module}.{self.type}"
        return RemoteError(name, self.message, self.traceback)

    def _class(self) -> builtins.type[Exception] | None:
        # Only what is imported already, or comes with Python and Celeriac: reading a result must not
        # import whatever module its sender names.
        found: Any = sys.modules.get(self.module)
        for part in self.type.split("."):
            found = getattr(found, part, None)
        return found if isinstance(found, type) and issubclass(found, Exception) else None


def _message_of(error: BaseException) -> str:
    return _printable(str(error)[:MESSAGE_LIMIT])


def _printable(text: str) -> str:
    """Return text that can be encoded: lone surrogates, as in the names of some files, are spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _traceback_of(error: BaseException) -> str:
    try:
        text = _printable("".join(traceback.format_exception(error)))
    except Exception:  # noqa: BLE001 - an exception whose parts cannot be printed
        return ""
    if len(text) <= TRACEBACK_LIMIT:
        return text
    half = TRACEBACK_LIMIT // 2
    return f"{text[:half]}\n… {len(text) - TRACEBACK_LIMIT} characters left out …\n{text[-half:]}"


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
                   parent_id=message.parent_id, root_id=message.root_id)  # fmt: skip

    def exception(self) -> BaseException | None:
        """Return the exception that ended the attempt, or None."""
        return self.failure.exception() if self.failure is not None else None

