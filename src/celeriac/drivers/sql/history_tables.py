"""The tables of the history, and how rows of them are named.

| table | a row |
|---|---|
| `…history_sums` | what was counted under one `Key`, whose hash is its id |
| `…history_workers` | how far the sums of a worker are final, and folded |
| `…history_attempts` | a failure, or one of the sample of the successes, under a name by which it is sorted |
| `…history_signatures` | a failure signature, and what an operator said of it |
| `…history_events` | a worker's life, an operator's action |
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

import msgspec
from sqlalchemy import Index, SmallInteger, Table

from celeriac.drivers.sql.columns import blob, number, text, whole
from celeriac.drivers.sql.keys import KEY_LENGTH, key, micros
from celeriac.model.history import Attempt, Key
from celeriac.ports.history import Position

__all__ = ["UNFOLDED", "HistoryTables", "attempt_name", "event_name", "first_name", "position", "position_name",
           "read_key", "row_id", "write_key"]  # fmt: skip

UNFOLDED: Final = -1
"""Stands in the column `step` of sums that are not folded."""

DIGITS: Final = (18, 16)  # of an instant in microseconds, and of an attempt's number
NAME_LENGTH: Final = sum(DIGITS) + KEY_LENGTH + 2
PART: Final = "!"  # sorts before all characters of a key, so that names sort as their parts do

write_key: Callable[[Key], bytes] = msgspec.json.Encoder().encode
"""Return what was counted together, as it is stored."""

read_key: Callable[[bytes], Key] = msgspec.json.Decoder(Key).decode
"""Return the same from its bytes. Raises `ValueError`."""


class HistoryTables:
    """The tables of the history, made by a function that makes one of Celeriac's tables from its name and columns."""

    def __init__(self, table: Callable[..., Table], prefix: str) -> None:
        self.sums = table(
            "history_sums",
            text("id", primary_key=True),
            whole("step"),
            whole("slot"),
            blob("name"),  # the key, in JSON
            blob("sums"),
            Index(f"{prefix}sums_slot", "step", "slot"),
        )
        self.workers = table(
            "history_workers",
            text("id", primary_key=True),
            blob("lease"),  # in UTF-8
            whole("complete"),
            whole("folded"),
            whole("seen_at"),
        )
        self.attempts = table(
            "history_attempts",
            text("name", NAME_LENGTH, primary_key=True),
            text("task_id"),
            text("task"),
            text("signature"),
            number("is_sample", SmallInteger),
            blob("attempt"),
            Index(f"{prefix}attempts_id", "task_id"),
            Index(f"{prefix}attempts_task", "task", "name"),
            Index(f"{prefix}attempts_signature", "signature", "name"),
            Index(f"{prefix}attempts_kind", "is_sample", "name"),
        )
        self.signatures = table(
            "history_signatures",
            text("id", primary_key=True),
            whole("last_at"),
            blob("signature"),
            blob("mark", nullable=True),  # status, when and by whom it was set, in JSON
            Index(f"{prefix}signatures_last_at", "last_at"),
        )
        self.events = table(
            "history_events",
            text("id", primary_key=True),
            whole("happened_at"),
            text("kind"),
            text("about"),
            blob("event"),
            Index(f"{prefix}events_happened_at", "happened_at"),
        )


def row_id(name: Key) -> str:
    """Return the id of the row of what was counted together."""
    return sha256(write_key(name)).hexdigest()


def first_name(instant: float) -> str:
    """Return the name before those of all attempts that ended at an instant or later."""
    return f"{max(0, micros(instant)):0{DIGITS[0]}}"


def attempt_name(attempt: Attempt) -> str:
    """Return the name of an attempt. Names sort by the end, then by the task, then by the number."""
    return f"{first_name(attempt.done_at)}{PART}{key(attempt.id)}{PART}{attempt.attempt:0{DIGITS[1]}}"


def position(name: str) -> Position:
    """Return where the attempt of a name is among all."""
    at, id, number = name.split(PART)
    return Position(int(at) / 1_000_000, id, int(number))


def position_name(at: Position) -> str:
    """Return the name that sorts as a position does."""
    return f"{round(at.at * 1_000_000):0{DIGITS[0]}}{PART}{at.id}{PART}{at.attempt:0{DIGITS[1]}}"


def event_name(text: str) -> str:
    """Return the id of the row of an event."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
