"""What every history promises."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import pytest

from celeriac.model.filters import Filter, parse_filter
from celeriac.model.history import AGES, COUNTERS, SLOT, Attempt, Batch, Event, FailureSignature, Key, Sums
from celeriac.model.spread import Spread
from celeriac.ports.history import Counted, History, Limits
from tests.clock import FakeClock

__all__ = ["HistoryConformance"]

START = 1_800_000_000  # a multiple of all steps but a day
DAY = 86_400


def key(at: int = START, lease: str = "a", **names: Any) -> Key:
    return Key(**{"step": SLOT, "at": at, "lease": lease, "task": "shop.add", "queue": "default", "state": "SUCCESS",
                  **names})  # fmt: skip


def sums(n: int, runtime: float = 0.5) -> Sums:
    spread = Spread()
    spread.add([runtime] * n)
    return Sums(n, spread, Spread())


def batch(counted: dict[Key, int], lease: str = "a", complete: int = 0, **more: Any) -> Batch:
    return Batch(lease=lease, complete=complete, sums={key: sums(n) for key, n in counted.items()}, **more)


def attempt(id: str, at: float = START, **fields: Any) -> Attempt:
    return Attempt(**{"id": id, "task": "shop.add", "queue": "default", "state": "FAILURE", "done_at": at,
                      "error": "builtins.ValueError", "message": "bad", **fields})  # fmt: skip


def failure(signature: str = "f00d", first: float = START, **fields: Any) -> FailureSignature:
    return FailureSignature(**{"signature": signature, "task": "shop.add", "error": "builtins.ValueError",
                               "title": "ValueError: bad", "first": first, "last": first, **fields})  # fmt: skip


async def fold(history: History, now: float) -> None:
    while await history.compact(now):
        pass


async def total(history: History) -> int:
    return sum(point.sums.n for point in await history.totals())


FILTERS = {
    "task:shop.*": "abd", "task:mail.send": "c", "task:shop.add,mail.send": "abc", "state:success": "b",
    "state:failure,retry": "acd", "state:success,failure": "abc", "queue:mail": "c", "error:KeyError": "d",
    "signature:f00d": "a", "id:b": "b", "since:60s": "cd", "until:1m": "ab", "runtime:>5s": "b",
    "header.tenant:acme": "d", '"card declined"': "c", "worker:w2": "a", "task:shop.* state:failure": "a",
    "attempt:>2": "d", "task:none": "",
}  # fmt: skip
"""Filters, and the ids that each finds of the four attempts that one test records."""


class HistoryConformance:
    """Inherit it with fixtures `history`, and `clock`, the clock of what expires there."""

    @pytest.fixture(autouse=True)
    def at_the_start(self, clock: FakeClock) -> None:
        clock.instant = float(START)

    # --- Sums -----------------------------------------------------------------------------------------

    async def test_nothing_is_known_before_anything_was_recorded(self, history: History) -> None:
        assert await history.series(START, START + 60) == []
        assert (await history.totals(), await history.signatures(), await history.events()) == ([], [], [])
        page = await history.search()
        assert (page.rows, page.next, page.of) == ([], None, 0)
        assert await history.compact(START) == 0
        assert await history.prune(Limits(), START) == 0

    async def test_a_batch_that_is_written_again_counts_once(self, history: History) -> None:
        for n in (3, 5, 5):
            await history.record(batch({key(): n}), START)
        assert await total(history) == 5

    async def test_batches_of_workers_add_up(self, history: History) -> None:
        await history.record(batch({key(): 3, key(state="FAILURE", error="E"): 1}), START)
        await history.record(batch({key(lease="b"): 4}, lease="b"), START)
        points = await history.series(START, START + 10, step=10)
        assert {point.state: point.sums.n for point in points} == {"SUCCESS": 7, "FAILURE": 1}

    async def test_what_is_final_is_folded_and_what_is_not_is_left(self, history: History) -> None:
        await history.record(batch({key(): 3, key(START + 10): 2}, complete=START), START + 12)
        await fold(history, START + 12)
        assert [row.key.at for row in await history.unfolded()] == [START + 10]
        assert [row.key.lease for row in await history.rows(SLOT, START, START + 60)] == [""]
        assert await total(history) == 5

    async def test_a_folded_slot_that_is_written_again_counts_once(self, history: History) -> None:
        first = batch({key(): 3}, complete=START)
        await history.record(first, START + 12)
        await fold(history, START + 12)
        await history.record(first, START + 13)
        await history.record(batch({key(): 3, key(START + 10): 1}, complete=START + 10), START + 22)
        await fold(history, START + 22)
        assert await total(history) == 4

    async def test_counters_are_folded_into_totals_and_are_no_attempts(self, history: History) -> None:
        received, lost = Counted("received", "shop.add", "default"), Counted("children_lost", reason="killed")

        def counted(lease: str, at: int, *names: Counted) -> dict[Key, int]:
            return {Key(COUNTERS, at, lease, one.task, one.queue, one.name, one.reason): 2 for one in names}

        first = batch({**counted("a", START, received, lost), key(): 1}, complete=START)
        for written in (first, first, batch(counted("a", START + 10, received)),
                        batch(counted("b", START, received), "b", START)):  # fmt: skip
            await history.record(written, START + 12)
            assert (await history.counters())[received] >= 2
            await fold(history, START + 12)
        assert await history.counters() == {received: 6, lost: 2}
        assert await total(history) == 1
        assert sum(point.sums.n for point in await history.series(0, START + 60)) == 1
        await fold(history, START + 6 * 365 * DAY)
        assert await history.counters() == {received: 6, lost: 2}
        assert await history.unfolded() == []

    async def test_slots_of_a_worker_that_was_killed_are_folded_in_the_end(self, history: History) -> None:
        await history.record(batch({key(): 3}), START)
        await fold(history, START + 60)
        assert len(await history.unfolded()) == 1
        await fold(history, START + 3 * 3600)
        assert await history.unfolded() == []
        assert await total(history) == 3

    async def test_folding_at_the_same_time_counts_once(self, history: History) -> None:
        for lease in "abcde":
            await history.record(batch({key(lease=lease): 2, key(lease=lease, task="t"): 1}, lease, START), START)
        await asyncio.gather(*[history.compact(START + 20) for _ in range(5)])
        await fold(history, START + 20)
        assert await total(history) == 15

    async def test_old_slots_become_coarser_and_the_sums_stay(self, history: History) -> None:
        steps = [*AGES]
        await history.record(
            batch({key(START + 10 * number): 1 for number in range(12)}, complete=START + 120), START + 130
        )
        for step, coarser in itertools.pairwise(steps):
            await fold(history, START + 130 + AGES[step] + coarser)
            assert await history.rows(step, 0, START + DAY) == []
            rows = await history.rows(coarser, 0, START + DAY)
            assert [row.key.at % coarser for row in rows] == [0] * len(rows)
            day = START // DAY * DAY
            assert sum(point.sums.n for point in await history.series(day, day + 2 * DAY, DAY)) == 12
        await fold(history, START + 6 * 365 * DAY)
        assert await history.series(0, START + 2 * DAY, DAY) == []
        assert await total(history) == 12

    async def test_series_are_by_step_and_by_name(self, history: History) -> None:
        counted = {key(START + 10 * number, task=f"shop.{'add' if number % 2 else 'mul'}"): 1 for number in range(12)}
        await history.record(batch(counted), START)
        points = await history.series(START, START + 119, 60, by=("task",))
        assert [(point.at - START, point.task, point.sums.n) for point in points] == [
            (0, "shop.add", 3), (0, "shop.mul", 3), (60, "shop.add", 3), (60, "shop.mul", 3),
        ]  # fmt: skip
        points = await history.series(START, START + 119, 60, parse_filter("task:*.add", START), by=())
        assert [point.sums.n for point in points] == [3, 3]
        with pytest.raises(ValueError, match="runtime"):
            await history.series(START, START, 60, Filter(runtime=(1.0, 2.0)))

    async def test_durations_are_merged(self, history: History) -> None:
        await history.record(Batch(lease="a", sums={key(): sums(99, 0.1)}), START)
        await history.record(Batch(lease="b", sums={key(lease="b"): sums(1, 60.0)}), START)
        (point,) = await history.series(START, START + 10)
        runtime = point.sums.runtime
        assert (runtime.n, runtime.least, runtime.most) == (100, 0.1, 60.0)
        assert runtime.percentile(0.5) == pytest.approx(0.1, rel=0.03)
        assert runtime.total == pytest.approx(69.9)

    async def test_names_may_be_anything(self, history: History) -> None:
        odd = key(task='a"b|:\0\n☃', queue="-", error="E:f", state="FAILURE", signature="x")
        await history.record(batch({odd: 2}, complete=START), START)
        await fold(history, START + 20)
        (point,) = await history.totals()
        assert (point.task, point.queue, point.error, point.sums.n) == (odd.task, odd.queue, odd.error, 2)

    # --- Attempts -------------------------------------------------------------------------------------

    async def test_attempts_are_found_newest_first_in_pages(self, history: History) -> None:
        given = [attempt(f"id-{number}", START + number) for number in range(25)]
        await history.record(Batch(lease="a", attempts=given), START)
        found: list[Attempt] = []
        cursor = None
        while True:
            page = await history.search(limit=10, cursor=cursor)
            found += page.rows
            cursor = page.next
            if cursor is None:
                break
        assert found == given[::-1]
        with pytest.raises(ValueError, match="cursor"):
            await history.search(cursor="nonsense")

    async def test_attempts_that_ended_at_the_same_time_are_all_found(self, history: History) -> None:
        given = {f"id-{number}" for number in range(9)}
        await history.record(Batch(lease="a", attempts=[attempt(id) for id in given]), START)
        first = await history.search(limit=4)
        second = await history.search(limit=100, cursor=first.next)
        assert {one.id for one in first.rows + second.rows} == given
        assert len(first.rows) + len(second.rows) == 9

    async def test_attempts_written_again_are_kept_once(self, history: History) -> None:
        for _ in range(2):
            await history.record(Batch(lease="a", attempts=[attempt("x"), attempt("x", START + 1, attempt=2)]), START)
        assert [one.attempt for one in (await history.timeline("x")).attempts] == [1, 2]
        assert (await history.search()).of == 2

    async def test_a_filter_finds_what_it_means(self, history: History) -> None:
        given = [
            attempt("a", START, signature="f00d", worker="w2"),
            attempt("b", START + 1, state="SUCCESS", error="", runtime=7.0),
            attempt("c", START + 100, task="mail.send", queue="mail", message="Card declined: 12"),
            attempt("d", START + 101, task="shop.mul", state="RETRY", error="builtins.KeyError", attempt=3,
                    headers={"tenant": "acme"}),
        ]  # fmt: skip
        await history.record(Batch(lease="a", attempts=given), START)
        found: dict[str, str] = {}
        for text in FILTERS:
            page = await history.search(parse_filter(text, START + 120))
            found[text] = "".join(sorted(one.id for one in page.rows))
            assert page.of == 4
        assert found == FILTERS

    async def test_old_and_surplus_attempts_are_deleted(self, history: History) -> None:
        given = [attempt(f"f{number}", START + number) for number in range(5)]
        given += [attempt(f"s{number}", START + number, state="SUCCESS", error="") for number in range(5)]
        await history.record(Batch(lease="a", attempts=given), START)
        limits = Limits(failures=100.0, samples=50.0, attempts=3)
        await history.prune(limits, START + 4)
        assert {one.id for one in (await history.search()).rows} == {"f2", "f3", "f4", "s2", "s3", "s4"}
        await history.prune(limits, START + 53.5)
        assert {one.id for one in (await history.search()).rows} == {"f2", "f3", "f4", "s4"}
        await history.prune(limits, START + 200)
        page = await history.search()
        assert (page.rows, page.of) == ([], 0)
        assert (await history.timeline("f4")).attempts == []
        assert (await history.search(Filter(tasks=("shop.add",)))).rows == []

    # --- Signatures -----------------------------------------------------------------------------------

    async def test_signatures_are_merged_and_counted(self, history: History) -> None:
        failed: dict[str, Any] = {"state": "FAILURE", "error": "E", "signature": "f00d"}
        one = batch({key(**failed): 3}, signatures=[failure(ids=["x"], workers=["a"])], complete=START)
        await history.record(one, START)
        await fold(history, START + 20)
        later = batch({key(START + 20, **failed): 2, key(START + 20, **{**failed, "state": "RETRY"}): 7},
                      signatures=[failure(first=START + 21, ids=["y"], workers=["b"])])  # fmt: skip
        await history.record(later, START + 21)
        await history.record(later, START + 22)
        (found,) = await history.signatures()
        assert (found.count, found.retries, found.first, found.last) == (5, 7, START, START + 21)
        assert (found.ids, found.workers, found.title) == (["x", "y"], ["a", "b"], "ValueError: bad")

    async def test_a_resolved_signature_that_returns_has_regressed(self, history: History) -> None:
        await history.record(Batch(lease="a", signatures=[failure(), failure("beef", START + 1)]), START)
        assert await history.mark("f00d", "resolved", "me: you", START + 5)
        assert not await history.mark("none", "resolved", "me", START + 5)
        (found,) = await history.signatures(status="resolved")
        assert (found.signature, found.marked_by, found.marked_at, found.regressed) == (
            "f00d", "me: you", START + 5, False,
        )  # fmt: skip
        await history.record(Batch(lease="a", signatures=[failure(first=START + 9)]), START)
        found, other = await history.signatures()
        assert (found.signature, found.regressed, other.status) == ("f00d", True, "open")

    async def test_signatures_that_failed_since_then_are_found_with_their_status(self, history: History) -> None:
        signatures = [failure("old", START), failure("new", START + 50), failure("last", START + 99)]
        await history.record(Batch(lease="a", signatures=signatures), START)
        await history.mark("new", "muted", "ann", START + 60)
        found = await history.signatures(Filter(since=START + 50))
        assert [(one.signature, one.status) for one in found] == [("last", "open"), ("new", "muted")]
        assert {one.signature for one in await history.latest_signatures(START + 50)} >= {"new", "last"}

    async def test_signatures_are_deleted_long_after_the_last_failure(self, history: History) -> None:
        await history.record(Batch(lease="a", signatures=[failure(), failure("beef", START + 99)]), START)
        await history.mark("f00d", "muted", "me", START)
        await history.prune(Limits(signatures=10.0), START + 50)
        assert [one.signature for one in await history.signatures()] == ["beef"]
        await history.record(Batch(lease="a", signatures=[failure()]), START)
        assert [one.status for one in await history.signatures()] == ["open", "open"]

    # --- Events ---------------------------------------------------------------------------------------

    async def test_events_are_kept_once_and_found_by_kind_time_and_id(self, history: History) -> None:
        given = [Event(at=START + n, kind=f"k{n % 2}", id=f"i{n}", by="me", text="did", data={"n": n})
                 for n in range(4)]  # fmt: skip
        for _ in range(2):
            await history.record(Batch(lease="a", events=given[:3]), START)
        await history.audit(given[3])
        assert await history.events() == given[::-1]
        assert await history.events(["k1"]) == [given[3], given[1]]
        assert await history.events(since=START + 2, limit=1) == [given[3]]
        assert (await history.timeline("i2")).events == [given[2]]
        await history.prune(Limits(events=10.0), START + 11.5)
        assert await history.events() == given[:1:-1]

    async def test_structs_come_back_as_they_were(self, history: History) -> None:
        full = attempt("x", attempt=2, worker="w", sent_at=1.0, due_at=2.0, started_at=3.0, runtime=4.0, wait=5.0,
                       traceback="t", signature="s", share=0.5, root_id="r", parent_id="p", group_id="g",
                       headers={"a": [1, {"b": None}]}, release="1.2", kept=b"\x00k")  # fmt: skip
        assert {name for name in Attempt.__struct_fields__ if name not in msgspec.to_builtins(full)} == set()
        await history.record(Batch(lease="a", attempts=[full]), START)
        assert (await history.search()).rows == [full]
