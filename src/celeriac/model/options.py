"""The options of tasks and of calls: their names and types, and the checks of their values.

`@app.task(**TaskOptions)` declares a task's options; `task.apply_async(..., **CallOptions)` overrides them for one
call, and `self.retry(..., **RetryOptions)` for the attempts that follow. `MessageTemplate` merges them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict

import msgspec

from celeriac.errors import EncodeError, UnknownOption, nearest
from celeriac.model.clock import Duration, instant, seconds
from celeriac.model.gate import LONGEST_NAME, Unreadable, check_nesting
from celeriac.model.serialization import serializer

__all__ = [
    "CALL_OPTIONS",
    "TASK_OPTIONS",
    "CallOptions",
    "RetryOptions",
    "TaskOptions",
    "boolean",
    "check_call",
    "check_class",
    "check_limits",
    "check_retry",
    "check_task",
    "count",
    "rate",
    "several",
    "text",
]


class TaskOptions(TypedDict, total=False):
    """The options of `@app.task(...)`, besides `name`, `bind` and `base`."""

    queue: str
    priority: int
    headers: dict[str, Any]
    expires: Duration
    serializer: str
    acks_late: bool
    ignore_result: bool
    result_extended: bool
    track_started: bool
    soft_time_limit: Duration | None
    time_limit: Duration | None
    rate_limit: str | float | None
    max_retries: int | None
    default_retry_delay: Duration | None
    autoretry_for: Sequence[type[BaseException]]
    dont_autoretry_for: Sequence[type[BaseException]]
    retry_backoff: bool | Duration
    retry_backoff_max: Duration
    retry_jitter: bool
    typing: bool
    mail: bool
    schedule: Any  # as `app.add_periodic_task` takes it


class CallOptions(TypedDict, total=False):
    """The options of `apply_async(...)`. None means not given, except for the time limits, where it means no limit."""

    task_id: str | None
    queue: str | None
    priority: int | None
    countdown: Duration | None
    eta: datetime | None
    expires: Duration | datetime | None
    headers: dict[str, Any] | None
    serializer: str | None
    acks_late: bool | None
    ignore_result: bool | None
    soft_time_limit: Duration | None
    time_limit: Duration | None
    max_retries: int | None
    link: Any
    link_error: Any


class RetryOptions(TypedDict, total=False):
    """The options of `self.retry(...)` besides its own parameters. They hold for all attempts that follow."""

    queue: str | None
    priority: int | None
    expires: Duration | datetime | None
    headers: dict[str, Any] | None
    serializer: str | None
    acks_late: bool | None
    ignore_result: bool | None
    soft_time_limit: Duration | None
    time_limit: Duration | None
    link: Any
    link_error: Any


TASK_OPTIONS = frozenset(TaskOptions.__annotations__)
CALL_OPTIONS = frozenset(CallOptions.__annotations__)
RETRY_OPTIONS = frozenset(RetryOptions.__annotations__)
NONE_IS_A_VALUE = frozenset({"soft_time_limit", "time_limit"})
"""Options of a call where None means no limit. For all others None means that the option is not given."""


def check_task(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's options, durations in seconds. Raises `UnknownOption`, `TypeError` or `ValueError`."""
    _check_names(options, TASK_OPTIONS, {"name", "bind", "base"}, "A task", UNSUPPORTED)
    checked = {name: value for name, value in options.items() if name in TASK_OPTIONS}
    _check_values(checked)
    for name in ("autoretry_for", "dont_autoretry_for"):
        if name in checked:
            checked[name] = _exception_types(name, checked[name])
    if "serializer" in checked:
        serializer(checked["serializer"])
    if checked.get("rate_limit") is not None:
        rate(checked["rate_limit"])
    if not isinstance(checked.get("retry_backoff", True), bool):
        checked["retry_backoff"] = _duration(checked["retry_backoff"], "retry_backoff")
    for name in ("retry_backoff_max", "expires"):
        if name in checked:
            checked[name] = _duration(checked[name], name)
    check_limits(checked.get("soft_time_limit"), checked.get("time_limit"))
    return checked


UNSUPPORTED = {
    "ErrorMail": "failures are mailed in groups; see docs/howto/mail.md; remove it",
    "Request": "connect to signals.task_failure, task_revoked or task_received",
    "Strategy": "connect to signals.task_received",
    "acks_on_failure": "failures are acknowledged like every ending; remove it",
    "acks_on_failure_or_timeout": "failures and time-outs are acknowledged like every ending; remove it",
    "acks_on_timeout": "time-outs are acknowledged like every ending; remove it",
    "backend": "the setting `result_backend` applies to all tasks",
    "compression": "messages are not compressed; remove it",
    "delivery_mode": "messages are always stored; remove it",
    "disable_error_emails": "set `mail` to False",
    "error_whitelist": "the settings `mail_on` and `mail_not_on` say which failures are mailed",
    "exchange": "set `queue`",
    "on_bound": "the task is bound when it is registered; write that after the app",
    "reject_on_worker_lost": "a lost message is always delivered again, `task_max_deliveries` times; remove it",
    "retry_kwargs": "set `max_retries` and `default_retry_delay`",
    "retry_on_worker_lost": "a lost message is always delivered again, `task_max_deliveries` times; remove it",
    "routing_key": "set `queue`",
    "send_error_emails": "set `mail`, to True or False",
    "shadow_name": "name the task in the decorator",
    "store_errors_even_if_ignored": "failures are always stored; remove it",
    "throws": "the log treats all failures alike; remove it",
}
"""Options and attributes of a task that Celery has and not Celeriac, and what to do instead."""

CALLS_UNSUPPORTED = {
    "compression": "messages are not compressed; remove it",
    "connection": "an app keeps its connections; remove it",
    "delivery_mode": "messages are always stored; remove it",
    "exchange": "set `queue`",
    "producer": "an app keeps its connections; remove it",
    "retry": "the setting `broker_publish_timeout` says how long a call tries; remove it",
    "retry_policy": "the setting `broker_publish_timeout` says how long a call tries; remove it",
    "routing_key": "set `queue`",
    "shadow": "logs and lists show the name of the task; remove it",
    "throw": "call `get()`, or set `task_eager_propagates`",
}
"""Options of a call that Celery has and not Celeriac, and what to do instead."""


def check_class(kind: type) -> None:
    """Raise `UnknownOption` for an attribute of a task class that has an effect in Celery and none here."""
    for name, instead in UNSUPPORTED.items():
        if getattr(kind, name, None) is not None:
            raise UnknownOption(f"{kind.__qualname__}.{name} has no effect in Celeriac: {instead}.")


def check_call(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's options, durations in seconds and instants as aware datetimes.

    Raises `UnknownOption`, `TypeError`, `ValueError` or `EncodeError`.
    """
    _check_names(options, CALL_OPTIONS, {"args", "kwargs"}, "A call", CALLS_UNSUPPORTED)
    checked = {name: value for name, value in options.items() if value is not None or name in NONE_IS_A_VALUE}
    _check_values(checked)
    if "countdown" in checked and "eta" in checked:
        raise UnknownOption("A call may have `countdown` or `eta`, not both.")
    if "countdown" in checked:
        checked["countdown"] = max(0.0, seconds(checked["countdown"], "countdown"))  # like an ETA that has passed
    if "eta" in checked:
        instant(checked["eta"], "eta")
    if isinstance(checked.get("expires"), datetime):
        instant(checked["expires"], "expires")
    elif "expires" in checked:
        checked["expires"] = _duration(checked["expires"], "expires")
    check_limits(checked.get("soft_time_limit"), checked.get("time_limit"))
    return checked


def check_retry(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a retry, as `check_call` does those of a call."""
    _check_names(options, RETRY_OPTIONS, {"args", "kwargs", "exc", "throw", "eta", "countdown", "max_retries"},
                 "A retry", CALLS_UNSUPPORTED)  # fmt: skip
    return check_call(options)


def check_limits(soft: float | None, hard: float | None, whose: str = "", prefix: str = "") -> None:
    """Raise `ValueError` for time limits (seconds) of 0, and for a soft one above the hard one, which ends it before.

    The error says `whose` limits these are; `prefix` begins their names.
    """
    for name, limit in (("soft_time_limit", soft), ("time_limit", hard)):
        if limit == 0:
            raise ValueError(f"{whose}{prefix}{name} must be more than 0 seconds, or None for no limit")
    if soft is not None and hard is not None and soft > hard:
        raise ValueError(
            f"{whose}{prefix}soft_time_limit must not be above {prefix}time_limit: after {hard:g} s the attempt is "
            f"ended, so nothing would happen after {soft:g} s. Change one of them."
        )


_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(?:\s*/\s*([smhd]))?")
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


def rate(limit: str | float) -> float:
    """Return a rate limit in tasks per second.

    >>> rate("30/m")
    0.5
    """
    match = _RATE.fullmatch(str(limit).strip())
    if match is None or not float(match[1]):
        raise ValueError("rate_limit must be '10/s', '100/m', '5/h' or a number of tasks per second, not "
                         f"{str(limit)[:100]!r}")  # fmt: skip
    return float(match[1]) / _PERIODS[match[2]]


def _duration(value: Any, name: str) -> float:
    """Return a duration in seconds; raise if it is negative."""
    found = seconds(value, name)
    if found < 0:
        raise ValueError(f"{name} must be 0 seconds or more, not {value!r}")
    return found


def boolean(value: Any, name: str) -> bool:
    """Return a boolean; raise for anything else, which a worker could read differently."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def count(value: Any, name: str) -> int:
    """Return a whole number of 0 or more, which fits into 63 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{name} must be a whole number of 0 or more, not {value!r}")
    return value


def text(value: Any, name: str) -> str:
    """Return a name or an id.

    Raises if it is not text, is empty or too long, has a NUL (where SQLite ends a text in JSON), or cannot be encoded
    as UTF-8 (a lone surrogate).
    """
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} must be a non-empty string, not {value!r}")
    if len(value) > LONGEST_NAME:
        raise ValueError(f"{name} must have at most {LONGEST_NAME:,} characters, not {len(value):,}: {value[:100]!r}…")
    if "\0" in value:
        raise ValueError(f"{name} must not contain a NUL character: {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be text that can be encoded as UTF-8, not {value!r}: {error.reason}") from None
    return value


def _check_names(options: Mapping[str, Any], known: frozenset[str], more: set[str], holder: str,
                 unsupported: Mapping[str, str]) -> None:  # fmt: skip
    for name in options:
        if name in unsupported:
            if options[name] is None:  # passed on by an `apply_async` that has Celery's parameters
                continue
            raise UnknownOption(f"{holder} has no option {name!r} in Celeriac: {unsupported[name]}.")
        if name not in known:
            raise UnknownOption(f"{holder} has no option {name!r}.{nearest(name, known | more)} "
                                f"Known: {', '.join(sorted(known))}.")  # fmt: skip


def _check_values(checked: dict[str, Any]) -> None:
    for name in ("soft_time_limit", "time_limit", "default_retry_delay"):
        if checked.get(name) is not None:
            checked[name] = _duration(checked[name], name)
    if "priority" in checked:
        priority = checked["priority"]
        if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 9:
            raise ValueError(f"priority must be a whole number from 0 to 9 (higher is sooner), not {priority!r}")
    for name in ("queue", "serializer", "task_id"):
        if name in checked:
            text(checked[name], name)
    if checked.get("max_retries") is not None:
        count(checked["max_retries"], "max_retries")
    for name in ("acks_late", "ignore_result", "result_extended", "track_started", "retry_jitter", "typing", "mail"):
        if name in checked:
            boolean(checked[name], name)
    if "headers" in checked and not isinstance(checked["headers"], Mapping):
        raise TypeError(f"headers must be a dict, not {checked['headers']!r}")
    if "headers" in checked:
        checked["headers"] = _plain_headers(checked["headers"])


def several(names: str | Iterable[str]) -> list[str]:
    """Return names or ids as a list; a text is one of them, and no list of letters.

    >>> several("shop"), several(("shop", "mail"))
    (['shop'], ['shop', 'mail'])
    """
    return [names] if isinstance(names, str) else list(names)


def _plain_headers(headers: Mapping[Any, Any]) -> dict[str, Any]:
    """Return headers as they will arrive, or raise `EncodeError`: they are sent outside the body, as plain msgpack."""
    try:
        plain: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(_plain(headers, "headers")))
        check_nesting(plain, "headers")
    except Unreadable as error:
        raise EncodeError(f"{error}. Pass such data as an argument.") from None
    except (RecursionError, UnicodeEncodeError) as error:
        raise EncodeError(f"headers must be plain data (strings, numbers, lists, dicts): {error}.") from None
    except OverflowError:
        raise EncodeError("headers can hold integers of up to 64 bits; pass a longer one as a string.") from None
    return plain


def _plain(value: Any, path: str) -> Any:
    """Return plain data, tuples as lists; raise for a value that would arrive as something else."""
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{path}[{key!r}]") for key, item in value.items()}
    raise EncodeError(f"{path} must be plain data (strings, finite numbers, lists, dicts with strings as keys), not "
                      f"{value!r}. Convert it to text, or pass it as an argument.")  # fmt: skip


def _exception_types(name: str, value: Any) -> tuple[type[BaseException], ...]:
    kinds = tuple(value) if isinstance(value, Iterable) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"{name} must be exception classes, not {kind!r}")
    return kinds
