"""What the answer of an HTTP task's endpoint means for the attempt. Pure: `calling.py` does what is decided here.

    200                          the end, as the style has it; 204 is the end without a value
    202, with Location           it works on: ask there
    408, 425, 429, 5xx           a failure that may pass: the task is retried, not before Retry-After
    any other                    a failure
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import msgspec

from celeriac.errors import RemoteError
from celeriac.http.styles import Style
from celeriac.model.gate import Unreadable, check_nesting

__all__ = ["Accepted", "Answer", "Failed", "Returned", "meaning", "phrase", "retry_after"]

PASSING: Final = frozenset({408, 425, 429})
EXCERPT: Final = 500  # characters of an answer that are shown with its error
LONGEST: Final = 86400.0  # seconds; no Retry-After is heeded for longer
TEXTS: Final = ("text/plain", "application/json", "application/problem+json")


class Answer(NamedTuple):
    """An answer, with the names of its headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Returned(NamedTuple):
    """The task has ended, with a value."""

    value: Any


class Failed(NamedTuple):
    """The attempt has failed."""

    error: RemoteError
    retry: bool = False
    delay: float | None = None  # seconds until the retry, as the endpoint wants it
    at_least: float = 0.0  # seconds until the retry, if that is more than the back-off
    told: bool = False  # by the endpoint: the call has ended so, and there is nothing more to ask


class Accepted(NamedTuple):
    """The endpoint works on."""

    location: str | None
    progress: Any
    pause: float | None  # seconds until it should be asked


def meaning(style: Style, answer: Answer, what: str, now: float | None = None) -> Returned | Failed | Accepted:
    """Return what an answer means. `what` names the request, in errors."""
    status, after = answer.status, retry_after(answer, now)
    if status == HTTPStatus.ACCEPTED:
        return Accepted(answer.headers.get("location"), _progress(answer.body), after)
    if status == HTTPStatus.NO_CONTENT:
        return Returned(None)
    if status == HTTPStatus.OK:
        try:
            end = style.read(answer.body)
        except RemoteError as wrong:
            return Failed(wrong)
        return Returned(end.value) if end.error is None else Failed(end.error, end.retry, end.delay, told=True)
    hint = " Redirects are not followed: give the task the final URL." if 300 <= status < 400 else _excerpt(answer)
    error = RemoteError("HTTPError", f"{what} was answered {status} {phrase(status)}.{hint}")
    return Failed(error, retry=status in PASSING or status >= 500, at_least=after or 0.0)


def retry_after(answer: Answer, now: float | None = None) -> float | None:
    """Return the seconds that the header Retry-After asks for, up to a day; None without one.

    >>> retry_after(Answer(503, {"retry-after": "120"}))
    120.0
    """
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:10]), LONGEST)
    try:
        at = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, at - (time.time() if now is None else now)), LONGEST)


def phrase(status: int) -> str:
    """Return a status in words."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(an unknown status)"


def _progress(body: bytes) -> Any:
    """Return `progress` of the body of a 202, if it has that."""
    try:
        found = msgspec.json.decode(body) if body else None
        check_nesting([found], "values")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, Unreadable):
        return None
    return found.get("progress") if isinstance(found, dict) else None


def _excerpt(answer: Answer) -> str:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in TEXTS or not answer.body:
        return ""
    text = answer.body[: 4 * EXCERPT].decode(errors="replace")[:EXCERPT]
    return f" It says: {''.join(one if one.isprintable() else ' ' for one in text)}"
