"""The two forms of a call to an HTTP task, and of what its endpoint says about the end.

    json      POST {"id", "task", "args", "kwargs", "attempt", "deadline", "headers"}
              ◄── {"result": …} or {"error": {"type", "message", "retry": true | false | seconds, "traceback"}}
    celery    GET ?x=10&y=10, or POST with a form, as `celery.task.http` did
              ◄── {"status": "success", "retval": …} or {"status": "failure", "reason": …}

Pure: `calling.py` sends what is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import urlencode

import msgspec
from msgspec import UNSET, UnsetType

from celeriac.errors import ArgumentsError, EncodeError, RemoteError
from celeriac.model.clock import aware
from celeriac.model.gate import Unreadable, check_nesting

__all__ = ["STYLES", "Call", "End", "Sent", "Style", "invalid"]

LONGEST_DELAY: Final = 30 * 86400.0  # seconds; that an endpoint may ask for
TYPE_CHARACTERS, MESSAGE_CHARACTERS, TRACEBACK_CHARACTERS = 200, 4_000, 16_000


class Call(NamedTuple):
    """One attempt of a call."""

    id: str
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    attempt: int
    deadline: float | None  # seconds since the epoch; when nobody waits for the answer any more
    headers: Mapping[str, Any]


class Sent(NamedTuple):
    """What is sent."""

    query: str
    content_type: str | None
    body: bytes


class End(NamedTuple):
    """How an endpoint says that a call has ended: with a value, or with an error."""

    value: Any = None
    error: RemoteError | None = None
    retry: bool = False
    delay: float | None = None  # seconds until the retry; None: the task's own back-off


class Style(NamedTuple):
    """How calls are written, and answers read."""

    methods: Sequence[str]  # the first is the default
    takes_args: bool
    write: Callable[[str, Call], Sent]  # of a method
    read: Callable[[bytes], End]


# --- json ---------------------------------------------------------------------------------------------


class _Error(msgspec.Struct):
    type: str = "Error"
    message: str = ""
    retry: bool | float = False
    traceback: str = ""


class _Answer(msgspec.Struct):
    result: Any = UNSET
    error: _Error | UnsetType = UNSET


def _write_json(method: str, call: Call) -> Sent:
    document = call._asdict()
    document["deadline"] = None if call.deadline is None else aware(call.deadline)
    return Sent("", "application/json", _encoded(document))


def _encoded(document: Any) -> bytes:
    try:
        return msgspec.json.encode(document, enc_hook=_unknown)
    except (TypeError, ValueError, RecursionError) as error:
        raise EncodeError(f"The arguments have no form in JSON: {error}.") from None


def _unknown(value: Any) -> NoReturn:
    raise TypeError(f"{type(value).__qualname__} has none")


def _read_json(body: bytes) -> End:
    answer = _converted(body, _Answer)
    if (answer.result is UNSET) == (answer.error is UNSET):
        raise invalid('it must have either "result" or "error"')
    if answer.error is UNSET:
        return End(answer.result)
    told: _Error = answer.error
    delay = None if isinstance(told.retry, bool) else min(max(0.0, float(told.retry)), LONGEST_DELAY)
    error = RemoteError(told.type[:TYPE_CHARACTERS], told.message[:MESSAGE_CHARACTERS],
                        told.traceback[-TRACEBACK_CHARACTERS:])  # fmt: skip
    return End(error=error, retry=told.retry is not False, delay=delay)


# --- celery -------------------------------------------------------------------------------------------


class _CeleryAnswer(msgspec.Struct):
    status: str
    retval: Any = None
    reason: Any = ""


def _write_form(method: str, call: Call) -> Sent:
    form = urlencode({name: _text(name, value) for name, value in call.kwargs.items()})
    if method == "GET":
        return Sent(form, None, b"")
    return Sent("", "application/x-www-form-urlencoded", form.encode())


def _text(name: str, value: Any) -> str:
    if isinstance(value, dict | list | tuple | set | bytes):
        raise ArgumentsError(f"{name}: a form has text and numbers, not {type(value).__name__}. Encode it as text, or "
                             'write style="json".')  # fmt: skip
    return str(value)


def _read_status(body: bytes) -> End:
    answer = _converted(body, _CeleryAnswer)
    if answer.status == "success":
        return End(answer.retval)
    if answer.status == "failure":
        return End(error=RemoteError("RemoteExecuteError", str(answer.reason)[:MESSAGE_CHARACTERS]))
    raise invalid(f'its status must be "success" or "failure", not {answer.status[:TYPE_CHARACTERS]!r}')


STYLES: Final = {
    "json": Style(("POST", "PUT", "PATCH"), True, _write_json, _read_json),
    "celery": Style(("POST", "GET"), False, _write_form, _read_status),
}


def invalid(why: str) -> RemoteError:
    """Return the error of an answer that does not have the form."""
    return RemoteError("InvalidResponse", f"The endpoint answered what cannot be understood: {why}.")


def _converted(body: bytes, kind: Any) -> Any:
    if not body:
        raise invalid("the body is empty")
    try:
        value = msgspec.json.decode(body)
        check_nesting([value], "values")
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(str(error)) from None
    except (RecursionError, Unreadable):
        raise invalid("it is nested too deeply") from None
