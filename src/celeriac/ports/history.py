"""The port for history: what ran, how often, how long, and how it failed; kept by workers, read by front ends.

It is best effort: it never stands in the way of settling, and a store that is away costs nothing but, after some time,
history. Workers (`worker/recorder.py`) write batches. Each holds *all* that its worker has counted in a slot so far, so
that a batch that is written twice counts once. `compact` (`ports/history_sums.py`) folds what is final into sums of all
workers, totals and coarser steps; any worker may call it at any time. An adapter implements what is abstract.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from celeriac.model.filters import Filter
from celeriac.model.gate import Instant, OptionalName, Unreadable
from celeriac.model.history import (
    AGES,
    BY_SIGNATURE,
    COUNTERS,
    EVER,
    SAMPLED,
    Attempt,
    Batch,
    Event,
    FailureSignature,
    Key,
    Status,
    Sums,
    decode_attempt,
    decode_event,
    decode_signature,
    encode,
)
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.claims import ClaimKeeper
from celeriac.ports.history_sums import Row, SumStore

__all__ = ["ALL", "MOST_COUNTED", "MOST_POINTS", "Counted", "History", "HistoryKeeper", "Limits", "Page", "Point",
           "Position", "Timeline", "cursor_of", "position_of", "samples_meant"]  # fmt: skip

warnings = RepeatedWarnings(logging.getLogger("celeriac.history"))

Mark = tuple[Status, Instant, OptionalName]  # of a failure signature

ALL = Filter()
READS = 10  # of sums, until nothing was folded meanwhile
PAGE = 500  # attempts that are read at a time
MOST_POINTS = 5_000  # that front ends ask for in one series, by time
SEARCHED = 100_000  # attempts that `search` looks at, at most
MOST_COUNTED = 100_000  # attempts, after which an adapter may stop counting


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted in one step of a series, or ever (`at` is 0). Names by which it is not divided are empty."""

    at: int
    task: str = ""
    queue: str = ""
    state: str = ""
    error: str = ""
    signature: str = ""
    sums: Sums


class Counted(NamedTuple):
    """What a counter of workers is about. What does not matter to it is empty."""

    name: str
    task: str = ""
    queue: str = ""
    reason: str = ""


class Page(msgspec.Struct, frozen=True):
    """A page of what was found, newest first."""

    rows: list[Attempt]
    next: str | None  # the cursor of the next page; None: there is no more
    searched: int  # how many attempts were looked at for this page
    of: int  # how many there are; `MOST_COUNTED`: at least


class Position(NamedTuple):
    """Where an attempt is among all, sorted by their ends."""

    at: float
    id: str
    attempt: int


class Timeline(msgspec.Struct, frozen=True):
    """What the history knows of one task: each attempt that was kept, and events, the oldest first."""

    attempts: list[Attempt]
    events: list[Event]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how many attempts, signatures and events are kept."""

    failures: float = 14 * 86_400.0  # seconds
    samples: float = 86_400.0
    attempts: int = 100_000  # of each of the two
    signatures: float = 365 * 86_400.0  # after the last failure
    events: float = 90 * 86_400.0


class History(SumStore, ClaimKeeper):
    """Keeps the history of an app, and claims on its server."""

    reads_block = False
    """Whether its coroutines read without giving the event loop to others, as `Port.reads_block`."""

    # --- Workers --------------------------------------------------------------------------------------

    @abstractmethod
    async def record(self, batch: Batch, now: float) -> None:
        """Write a batch in one step. Sums of slots that were folded are left out: they were written before."""

    @abstractmethod
    async def prune(self, limits: Limits, now: float) -> int:
        """Delete attempts, signatures and events that are too old or too many; return how many, about.

        Deletes a limited number at a time.
        """

    # --- Front ends -----------------------------------------------------------------------------------

    @abstractmethod
    async def attempts(self, filter: Filter, before: Position | None, limit: int) -> list[tuple[Position, bytes]]:
        """Return up to `limit` attempts, newest first, that ended before that one. An empty list: there are no more.

        They may be more than the filter means.
        """

    @abstractmethod
    async def count_attempts(self) -> int:
        """Return how many attempts there are; `MOST_COUNTED` if there are at least so many, and counting takes long."""

    @abstractmethod
    async def attempts_of_task(self, id: str) -> list[bytes]:
        """Return the attempts of a task."""

    @abstractmethod
    async def known_signatures(self, signatures: Sequence[str] | None = None) -> list[FailureSignature]:
        """Return these signatures, or all, with status and without counts, the latest first."""

    async def latest_signatures(self, since: float) -> list[FailureSignature]:
        """Return as `known_signatures` does, at least those that failed since then. Adapters may read no others."""
        return await self.known_signatures()

    @abstractmethod
    async def mark(self, signature: str, status: Status, by: str, now: float) -> bool:
        """Set the status of a signature. Return whether there is one."""

    @abstractmethod
    async def audit(self, event: Event) -> None:
        """Write down what an operator did."""

    @abstractmethod
    async def events(self, kinds: Sequence[str] = (), since: float = 0.0, limit: int = 100,
                     id: str | None = None) -> list[Event]:  # fmt: skip
        """Return the latest events of these kinds (none: of all), newest first; with `id`, those that are about it."""

    async def search(self, filter: Filter = ALL, limit: int = 50, cursor: str | None = None,
                     within: float = math.inf, most: float = SEARCHED) -> Page:  # fmt: skip
        """Return attempts that a filter means, newest first, of the newest `most` after the cursor, about.

        It looks no further once it has searched `within` seconds; the page then says how far it came, and where the
        next one goes on. `most` is at most `SEARCHED`.

        Raises `ValueError` for a cursor that no page gave, and for conditions on arguments, which are not kept.
        """
        if filter.args:
            raise ValueError("The history keeps no arguments: search dead letters by args.…, or give tasks headers.")
        position = position_of(cursor) if cursor else None
        found: list[Attempt] = []
        searched, more, until = 0, True, time.monotonic() + within
        while more and searched < min(most, SEARCHED) and (not searched or time.monotonic() < until):
            some = await self.attempts(filter, position, PAGE)
            more = bool(some)
            for at, value in some:
                position, searched = at, searched + 1
                found += [one for one in self.attempts_of([value]) if filter.matches(one)]
                if len(found) == limit:
                    return Page(found, cursor_of(at), searched, await self.count_attempts())
        return Page(found, cursor_of(position) if more and position else None, searched, await self.count_attempts())

    async def timeline(self, id: str) -> Timeline:
        """Return what is known of a task."""
        attempts = sorted(self.attempts_of(await self.attempts_of_task(id)), key=lambda attempt: attempt.done_at)
        events = await self.events(id=id)
        return Timeline(attempts, events[::-1])

    def close(self) -> None:
        """Close what only the history has open. The next use opens it again."""

    # --- Reading sums ---------------------------------------------------------------------------------

    async def series(self, since: float, until: float, step: int = 60, filter: Filter = ALL,
                     by: Sequence[str] = ("state",)) -> list[Point]:  # fmt: skip
        """Return what was counted from `since` to `until`, by steps of so many seconds, and by these parts of `Key`.

        Raises `ValueError` if the filter has conditions that counts do not tell. What is old is known by coarser steps
        only: a point is then where its step begins.
        """
        _check(filter)
        first = int(since) // step * step
        found: dict[tuple[object, ...], Sums] = {}

        async def folded() -> list[Row]:
            return [row for finer in AGES for row in await self.rows(finer, first, int(until) + 1)]

        for row in await self._with_unfolded(folded):
            if first <= row.key.at <= until and row.key.step != COUNTERS:
                self._add(found, row, row.key.at // step * step, filter, by)
        return _points(found, by)

    async def totals(self, filter: Filter = ALL,
                     by: Sequence[str] = ("task", "queue", "state", "error")) -> list[Point]:  # fmt: skip
        """Return all that was ever counted. These sums never shrink."""
        _check(filter)
        found: dict[tuple[object, ...], Sums] = {}
        for row in await self._with_unfolded(partial(self.rows, EVER, 0, 1)):
            if row.key.step != COUNTERS:
                self._add(found, row, 0, filter, by)
        return _points(found, by)

    async def counters(self) -> dict[Counted, int]:
        """Return what workers have ever counted besides attempts. These numbers never shrink."""
        found: dict[Counted, int] = defaultdict(int)
        for row in await self._with_unfolded(partial(self.rows, COUNTERS, 0, 1)):
            if row.key.step == COUNTERS and (sums := self.open_sums(row)) is not None:
                found[Counted(row.key.state, row.key.task, row.key.queue, row.key.error)] += sums.n
        return dict(found)

    async def signatures(self, filter: Filter = ALL, status: Status | None = None,
                         limit: int = 100) -> list[FailureSignature]:  # fmt: skip
        """Return failure signatures with their counts, the latest first."""
        if filter.since is not None and not filter.signatures:
            known = await self.latest_signatures(filter.since)
        else:
            known = await self.known_signatures(filter.signatures or None)
        chosen = [
            one
            for one in known
            if status in (None, one.status)
            and filter.counts(one.task, "", "", one.error, one.signature)
            and (filter.since is None or one.last >= filter.since)
        ][:limit]
        keys = [Key(BY_SIGNATURE, 0, "", "", "", state, "", one.signature)
                for one in chosen for state in ("FAILURE", "RETRY")]  # fmt: skip
        counts: dict[tuple[str, str], int] = defaultdict(int)

        async def folded() -> list[Row]:
            return [Row(key, value) for key, value in (await self.get(keys) if keys else {}).items()]

        for row in await self._with_unfolded(folded):
            if row.key.signature and (sums := self.open_sums(row)) is not None:
                counts[row.key.signature, row.key.state] += sums.n
        return [
            msgspec.structs.replace(one, count=counts[one.signature, "FAILURE"], retries=counts[one.signature, "RETRY"])
            for one in chosen
        ]

    async def _with_unfolded(self, read: Callable[[], Awaitable[list[Row]]]) -> list[Row]:
        """Return what `read` returns, and the rows of single workers.

        A row that is folded meanwhile would be missing, or there twice, and a counter must not go down: then it is all
        read again.
        """
        for _ in range(READS):
            unfolded, rows = await self.unfolded(), await read()
            left = {row.key for row in await self.unfolded()}
            if all(row.key in left for row in unfolded):
                break
        return [*rows, *unfolded]

    def _add(self, found: dict[tuple[object, ...], Sums], row: Row, at: int, filter: Filter, by: Sequence[str]) -> None:
        key = row.key
        if filter.counts(key.task, key.queue, key.state, key.error, key.signature):
            sums, together = self.open_sums(row), (at, *(getattr(key, name) for name in by))
            if sums is not None and together in found:
                found[together].merge(sums)
            elif sums is not None:
                found[together] = sums

    # --- Values ---------------------------------------------------------------------------------------

    def seal(self, value: Attempt | FailureSignature | Event) -> bytes:
        """Return an attempt, a signature or an event as it is stored."""
        return self.codec.seal("history", encode(value), type(value).__name__)

    def attempts_of(self, values: Iterable[bytes]) -> Iterator[Attempt]:
        """Return those stored attempts that can be read."""
        for value in values:
            try:
                yield decode_attempt(self.codec.open("history", value, "Attempt"))
            except Unreadable as error:
                warnings.warn("An attempt of the history is unreadable: %s", error)

    def events_of(self, values: Iterable[bytes]) -> Iterator[Event]:
        """Return those stored events that can be read."""
        for value in values:
            try:
                yield decode_event(self.codec.open("history", value, "Event"))
            except Unreadable as error:
                warnings.warn("An event of the history is unreadable: %s", error)

    def signature_of(self, value: bytes) -> FailureSignature | None:
        """Return a stored failure signature; None if it cannot be read."""
        try:
            return decode_signature(self.codec.open("history", value, "FailureSignature"))
        except Unreadable as error:
            warnings.warn("A failure signature of the history is unreadable: %s", error)
            return None

    def marked(self, one: FailureSignature, mark: Any) -> FailureSignature:
        """Return a signature with a mark as it is stored: its status, when that was set, and by whom.

        Return it as it is if that is no mark.
        """
        try:
            status, at, by = msgspec.convert(mark, Mark, strict=False)
        except msgspec.ValidationError:
            warnings.warn("The status of the failure signature %s is unreadable", one.signature)
            return one
        return msgspec.structs.replace(one, status=status, marked_at=at, marked_by=by)


class HistoryKeeper(ABC):
    """What keeps a history. Implemented by backends next to `Backend`."""

    @abstractmethod
    def history(self) -> History:
        """Return the port for history."""


def samples_meant(filter: Filter) -> bool | None:
    """Return whether a filter means only samples (True), or only failures (False), or both (None)."""
    kinds = {state in SAMPLED for state in filter.states}
    return kinds.pop() if len(kinds) == 1 else None


def _check(filter: Filter) -> None:
    if filter.finer:
        raise ValueError(f"Counts are not divided by {', '.join(filter.finer)}: search attempts by that.")


def cursor_of(position: Position) -> str:
    """Return a position as text: the cursor of a page, the id of an event."""
    return f"{position.at!r}/{position.attempt}/{position.id}"


def position_of(cursor: str) -> Position:
    """Return the position that a cursor is. Raises `ValueError`."""
    at, _, rest = cursor.partition("/")
    attempt, _, id = rest.partition("/")
    try:
        position = Position(float(at), id, int(attempt))
    except ValueError:
        position = Position(math.nan, "", 0)
    if not math.isfinite(position.at) or abs(position.attempt) >= 1 << 63:
        raise ValueError(f"{cursor!r} is not the cursor of a page.")
    return position


def _points(found: Mapping[tuple[object, ...], Sums], by: Sequence[str]) -> list[Point]:
    points = []
    for (at, *names), sums in sorted(found.items(), key=lambda item: [str(part) for part in item[0][1:]]):
        points.append(Point(at=at, sums=sums, **dict(zip(by, names, strict=True))))  # type: ignore[arg-type]
    return sorted(points, key=lambda point: point.at)
