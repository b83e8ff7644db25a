"""Filters of attempts, and the one grammar in which the command, pages and the API write them.

    task:shop.* state:failure queue:mail error:ValueError header.tenant:acme since:2h runtime:>5s "card declined"

Conditions on different names must all hold; of several values of one name (`state:failure,retry`), any. `*` stands for
any text. What has no name is searched for in the message of the exception.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec

from celeriac import states
from celeriac.errors import nearest
from celeriac.model.history import Attempt

__all__ = ["ANY", "Filter", "duration_of", "instant_of", "parse_filter"]

NAMES: Final = ("task", "state", "queue", "error", "worker", "id", "signature", "root", "group", "since", "until",
                "runtime", "wait", "attempt")  # fmt: skip
STATES: Final = (states.SUCCESS, states.FAILURE, states.RETRY, states.REVOKED, states.IGNORED)
LONGEST: Final = 4_000  # characters
TOKEN: Final = re.compile(r'(?:[^\s":]+:)?(?:"(?:[^"\\]|\\.)*"|[^\s"]+)')
UNITS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
DURATION: Final = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*(ms|s|min|m|h|d|w)?")


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which attempts are meant. Empty: all."""

    tasks: tuple[str, ...] = ()  # these may have `*`, as those of `queues` and so on
    states: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    roots: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    since: float | None = None  # by the end of the attempt; seconds since the epoch
    until: float | None = None
    runtime: tuple[float, float] = (0.0, float("inf"))  # seconds: at least, at most
    wait: tuple[float, float] = (0.0, float("inf"))
    attempt: tuple[float, float] = (0.0, float("inf"))
    headers: tuple[tuple[str, str], ...] = ()
    args: tuple[tuple[str, str], ...] = ()  # only where the message is kept: not in the history
    words: tuple[str, ...] = ()

    def matches(self, attempt: Attempt) -> bool:
        """Return whether an attempt is meant."""
        return (
            _any(self.tasks, attempt.task)
            and (not self.states or attempt.state in self.states)
            and _any(self.queues, attempt.queue)
            and _is_error(self.errors, attempt.error)
            and _any(self.workers, attempt.worker)
            and (not self.ids or attempt.id in self.ids)
            and (not self.signatures or attempt.signature in self.signatures)
            and (not self.roots or (attempt.root_id or attempt.id) in self.roots)
            and (not self.groups or attempt.group_id in self.groups)
            and (self.since is None or attempt.done_at >= self.since)
            and (self.until is None or attempt.done_at < self.until)
            and self.runtime[0] <= attempt.runtime <= self.runtime[1]
            and self.wait[0] <= attempt.wait <= self.wait[1]
            and self.attempt[0] <= attempt.attempt <= self.attempt[1]
            and all(_any((wanted,), _shown(attempt.headers.get(name))) for name, wanted in self.headers)
            and all(word.lower() in f"{attempt.error}: {attempt.message}".lower() for word in self.words)
        )  # fmt: skip

    def counts(self, task: str, queue: str, state: str, error: str, signature: str) -> bool:
        """Return whether what was counted together is meant, as far as counts tell."""
        return (
            _any(self.tasks, task)
            and _any(self.queues, queue)
            and (not self.states or state in self.states)
            and _is_error(self.errors, error)
            and (not self.signatures or signature in self.signatures)
        )

    def has_args(self, named: Mapping[str, Any]) -> bool:
        """Return whether arguments, by their names, are meant. `order.item` is the item of the argument `order`."""
        return all(_any((wanted,), _shown(_inside(named, name))) for name, wanted in self.args)

    @property
    def finer(self) -> tuple[str, ...]:
        """The names of conditions that counts cannot be searched by."""
        given = {
            "worker": self.workers, "id": self.ids, "root": self.roots, "group": self.groups, "header": self.headers,
            "args": self.args, "text": self.words, "runtime": self.runtime != ANY.runtime,
            "wait": self.wait != ANY.wait, "attempt": self.attempt != ANY.attempt,
        }  # fmt: skip
        return tuple(name for name, is_given in given.items() if is_given)


ANY: Final = Filter()


def _any(patterns: tuple[str, ...], text: str) -> bool:
    return not patterns or any(
        fnmatchcase(text, pattern.replace("[", "[[]")) if "*" in pattern else text == pattern for pattern in patterns
    )


def _is_error(patterns: tuple[str, ...], error: str) -> bool:
    return _any(patterns, error) or _any(patterns, error.rpartition(".")[2])


def _inside(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else msgspec.json.encode(value).decode()


# --- The grammar --------------------------------------------------------------------------------------


def parse_filter(text: str, now: float) -> Filter:
    """Return the filter that a text describes. Raises `ValueError`, which says what is wrong.

    >>> parse_filter("task:shop.* state:failure runtime:>5s", 0.0).runtime
    (5.0, inf)
    """
    if len(text) > LONGEST:
        raise ValueError(f"A filter has at most {LONGEST:,} characters, not {len(text):,}.")
    fields: dict[str, Any] = {}
    for token in TOKEN.findall(text):
        name, colon, rest = token.partition(":")
        if not colon or token.startswith('"'):
            _add(fields, "words", _unquoted(token))
            continue
        values = [_unquoted(rest)] if rest.startswith('"') else [value for value in rest.split(",") if value]
        if not values:
            raise ValueError(f"{name}: needs a value, as in {name}:{EXAMPLES.get(name, 'x')}.")
        first, dot, of = name.partition(".")
        if first in ("header", "headers", "args", "kwargs") and dot and of:
            _add(fields, "headers" if first.startswith("header") else "args", (of, values[0]))
        elif name in ("since", "until"):
            fields[name] = instant_of(values[0], now)
        elif name in ("runtime", "wait", "attempt"):
            fields[name] = _bounds(name, values)
        elif name in NAMES:
            for value in values:
                _add(fields, f"{name}s", _state(value) if name == "state" else value)
        else:
            raise ValueError(f"There is no condition {name!r}.{nearest(name, NAMES)} Known: {', '.join(NAMES)}, "
                             'header.NAME. Put text with a colon into quotes: "…".')  # fmt: skip
    return Filter(**fields)


EXAMPLES: Final = {"task": "shop.*", "state": "failure", "since": "2h", "runtime": ">5s", "error": "ValueError"}


def _add(fields: dict[str, Any], name: str, value: Any) -> None:
    fields[name] = (*fields.get(name, ()), value)


def _unquoted(text: str) -> str:
    if len(text) > 1 and text.startswith('"') and text.endswith('"'):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _state(value: str) -> str:
    if value.upper() not in STATES:
        raise ValueError(f"There is no state {value!r} of an ended attempt.{nearest(value.upper(), STATES)}")
    return value.upper()


def duration_of(text: str) -> float:
    """Return a duration in seconds: `5s`, `1.5h`, `200ms`; a bare number is seconds. Raises `ValueError`."""
    match = DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration: write 200ms, 5s, 10min, 2h, 3d or 1w.")
    return float(match[1]) * UNITS[match[2] or "s"]


def instant_of(text: str, now: float) -> float:
    """Return an instant: a duration before now (`2h`), or a date (`2026-11-29`, `2026-11-29T12:00`; UTC if bare)."""
    if DURATION.fullmatch(text):
        return now - duration_of(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither a duration before now (2h, 3d) nor a date (2026-11-29).") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _bounds(name: str, values: list[str]) -> tuple[float, float]:
    """Return the bounds of `>5s`, `<5s`, `1s..5s` or `5s`."""
    least, most = 0.0, float("inf")
    read, unit = (_number_of, "") if name == "attempt" else (duration_of, "s")
    for value in values:
        low, dots, high = value.partition("..")
        try:
            if dots:
                least, most = read(low) if low else least, read(high) if high else most
            elif value.startswith(">"):
                least = read(value.lstrip(">="))
            elif value.startswith("<"):
                most = read(value.lstrip("<="))
            else:
                least = most = read(value)
        except ValueError as error:
            examples = f"{name}:>5{unit}, {name}:<5{unit}, {name}:1{unit}..5{unit}"
            raise ValueError(f"{name}:{value}: {error} As in {examples}.") from None
    return least, most


def _number_of(text: str) -> float:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no whole number.")
    return float(text)
