"""All errors that Celeriac raises, as one class hierarchy.

A class's docstring is its default message. Errors carry details as attributes for programs to read (`.task`,
`.queue` …), and a message ends with the next step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from celeriac.lazy import LazyModule

if TYPE_CHECKING:
    import difflib
else:
    difflib = LazyModule("difflib")

__all__ = [
    "AccessRefused",
    "AddressRefused",
    "ArgumentsError",
    "BackendError",
    "BackendUnavailable",
    "BadSignature",
    "BrokerError",
    "BrokerMisconfigured",
    "BrokerUnavailable",
    "CeleriacError",
    "DecodeError",
    "EncodeError",
    "ForeignDatabase",
    "Ignore",
    "ImproperlyConfigured",
    "LeaseLost",
    "MailError",
    "MaxRetriesExceeded",
    "MessageTooLarge",
    "NotRegistered",
    "NotSupported",
    "Reject",
    "RemoteError",
    "Replaced",
    "ResultIgnored",
    "ResultLost",
    "ResultTimeout",
    "Retry",
    "SoftTimeLimitExceeded",
    "TaskExpired",
    "TaskRevoked",
    "TimeLimitExceeded",
    "UnknownOption",
    "UnknownQueue",
    "Unstorable",
    "WaitInTask",
    "WorkerLost",
    "WorkflowError",
    "closest",
    "nearest",
]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint with the closest match in `known` (`" Did you mean 'mail'?"`), or an empty string.

    >>> nearest("mial", ["mail", "default"])
    " Did you mean 'mail'?"
    """
    found = closest(name, known)
    return f" Did you mean {found!r}?" if found is not None else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that resembles `name` most, or None if none does."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


class CeleriacError(Exception):
    """Something went wrong in Celeriac."""

    of_another = False  # rebuilt from another task's outcome: raised again, it is a failure and not control flow

    def __init__(self, message: str | None = None, *rest: Any) -> None:
        super().__init__(message if message is not None else (type(self).__doc__ or "").split("\n")[0], *rest)


# --- Raised before anything is sent -------------------------------------------------------------------


class ImproperlyConfigured(CeleriacError):
    """The configuration is invalid."""


class NotRegistered(CeleriacError, KeyError):
    """No task of this name is registered."""

    def __init__(self, task: str, known: Iterable[str] = ()) -> None:
        self.task = task
        self.known = sorted(known)
        super().__init__(task, self.known)

    def __str__(self) -> str:
        return (
            f"No task named {self.task!r} is registered.{nearest(self.task, self.known)} "
            "Import the module that defines it, or name that module in the setting `imports` or in "
            "`app.autodiscover_tasks`."
        )


class UnknownOption(CeleriacError, TypeError):
    """A call or a task has an unknown option."""


class UnknownQueue(CeleriacError):
    """No queue of this name is declared."""

    def __init__(self, queue: str, known: Iterable[str] = ()) -> None:
        self.queue = queue
        self.known = sorted(known)
        super().__init__(queue, self.known)

    def __str__(self) -> str:
        return (
            f"No queue named {self.queue!r} is declared.{nearest(self.queue, self.known)} Known queues: "
            f"{', '.join(self.known)}. Add it to `task_queues`, or set `task_create_missing_queues=True`."
        )


class ArgumentsError(CeleriacError, TypeError):
    """The arguments do not match the task's signature."""


class EncodeError(CeleriacError, TypeError):
    """A value cannot be serialised."""

    culprit: str = ""  # the class of the part that failed; empty if unknown
    path: tuple[str, ...] = ()  # where that part is in the value: ("[0]", ".lines")
    reason: str = ""

    @classmethod
    def of(cls, holder: str, culprit: str, path: tuple[str, ...], reason: str) -> EncodeError:
        """Make the error for a part of `holder`, which starts the message: "Argument 'x' of shop.add"."""
        where = f" at {''.join(path)}" if path else ""
        why = f": {reason}" if reason else ""
        error = cls(f"{holder} cannot be serialised ({culprit}{where}{why}). Pass plain data (numbers, strings, lists, "
                    "dicts, dates, dataclasses), or an id that the task looks up.")  # fmt: skip
        error.culprit, error.path, error.reason = culprit, path, reason
        return error

    def within(self, holder: str, steps: int) -> EncodeError:
        """Return the same error for `holder`, the value that is `steps` steps further down the path."""
        return EncodeError.of(holder, self.culprit, self.path[steps:], self.reason) if self.culprit else self


class DecodeError(CeleriacError, ValueError):
    """The bytes cannot be decoded, or their content type is not accepted."""


class MessageTooLarge(CeleriacError, ValueError):
    """The message is larger than `message_max_bytes`."""


class WorkflowError(CeleriacError):
    """The workflow cannot be sent, or was not found."""


# --- Servers ------------------------------------------------------------------------------------------


class BrokerError(CeleriacError):
    """The broker refused the request or failed."""


class BrokerUnavailable(BrokerError, ConnectionError):
    """The broker cannot be reached."""


class BrokerMisconfigured(BrokerUnavailable):
    """The broker can never be reached as it is configured: fix the configuration, retrying does not help."""


class AccessRefused(BrokerError):
    """The server does not allow this to its user: grant the rights, retrying does not help."""


class NotSupported(BrokerError):
    """The broker does not support this operation."""


class Unstorable(BrokerError):
    """The server cannot store this value; retrying does not help."""


class ForeignDatabase(BrokerError):
    """The file is not a Celeriac database; it was not changed."""


class BackendError(CeleriacError):
    """The result backend refused the request or failed."""


class BackendUnavailable(BackendError, ConnectionError):
    """The result backend cannot be reached."""


class LeaseLost(BrokerError):
    """The worker's lease expired, and its messages went to other workers."""


class MailError(CeleriacError):
    """The mail server did not accept a mail."""

    def __init__(self, message: str | None = None, *, temporary: bool = True, undelivered: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.temporary = temporary  # it may accept it later
        self.undelivered = list(undelivered)  # the recipients for whom that holds; empty: for all


# --- HTTP requests that Celeriac sends ----------------------------------------------------------------


class AddressRefused(CeleriacError, ValueError):
    """Callbacks do not go to this URL, or not to the address that its host leads to."""


class BadSignature(CeleriacError, ValueError):
    """A request is not signed with one of the secrets, or was signed too long ago."""


# --- Results ------------------------------------------------------------------------------------------


class ResultTimeout(CeleriacError, TimeoutError):
    """The result did not arrive in time."""


class ResultIgnored(CeleriacError):
    """The call had `ignore_result`: its outcome is not stored, so nothing can wait for it."""


class ResultLost(CeleriacError):
    """A result that was requested, or that a workflow needs, has expired or was forgotten."""


class WaitInTask(CeleriacError, RuntimeError):
    """Waiting for a result inside a plain task blocks a worker's child, and can deadlock the whole pool.

    Make the task `async def` and `await result.aget()`, or link the tasks instead.
    """

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class RemoteError(CeleriacError):
    """A task failed with an exception that cannot be rebuilt here."""

    def __init__(self, type: str, message: str, traceback: str = "") -> None:
        super().__init__(type, message)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class TaskRevoked(CeleriacError):
    """The task was revoked."""


class TaskExpired(TaskRevoked):
    """The task expired before it started."""


class WorkerLost(CeleriacError):
    """The process that ran the task died."""


class MaxRetriesExceeded(CeleriacError):
    """The task has used up its retries."""


# --- Inside a task ------------------------------------------------------------------------------------


class SoftTimeLimitExceeded(CeleriacError):
    """The soft time limit has passed: clean up and return."""


class TimeLimitExceeded(CeleriacError):
    """The hard time limit has passed: the attempt was terminated."""


class Ignore(CeleriacError):
    """Raised by a task to end in the state IGNORED, without a result."""


class Reject(CeleriacError):
    """Raised by a task to make its message a dead letter.

    `Reject("reason", requeue=True)` returns the message to its queue instead.
    """

    def __init__(self, reason: str = "rejected by the task", requeue: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.requeue = requeue


class Replaced(CeleriacError):
    """Raised by `task.replace()`: another call takes the task's place."""

    def __init__(self, following: Iterable[Any] = ()) -> None:
        super().__init__()
        self.following = list(following)  # the messages to send in place of the task


class Retry(CeleriacError):
    """Raised by `task.retry()`: this attempt ends and the next one is scheduled."""

    def __init__(self, message: str | None = None, *, exc: BaseException | None = None, delay: float | None = None,
                 following: Any = None) -> None:  # fmt: skip
        super().__init__(message)
        self.exc = exc
        self.delay = delay
        self.following = following  # the message of the next attempt, where `retry` changed it
        self.is_allowed = False  # whether `retry` made it, which has looked whether an attempt is left

    @property
    def when(self) -> float | None:
        """The seconds until the next attempt, under Celery's name."""
        return self.delay
