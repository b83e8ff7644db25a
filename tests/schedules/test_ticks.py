"""Which ticks are due, which of the missed ones are sent, and their ids."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from celeriac.schedules.cron import cron
from celeriac.schedules.intervals import every
from celeriac.schedules.kinds import AnySchedule
from celeriac.schedules.once import at
from celeriac.schedules.ticks import Due, due, jitter, tick_id
from tests.schedules.samples import schedules

MINUTE = 60_000
START = 1_800_000_000_000
MINUTELY = every(minutes=1)


def test_nothing_is_due_before_its_time() -> None:
    assert due(MINUTELY, START, START + MINUTE - 1) == Due([], 0, START, START + MINUTE)


def test_a_tick_is_due_at_its_time() -> None:
    assert due(MINUTELY, START, START + MINUTE) == Due([START + MINUTE], 0, START + MINUTE, START + 2 * MINUTE)


def test_a_clock_that_was_set_back_makes_nothing_due() -> None:
    assert due(MINUTELY, START, START - 100 * MINUTE) == Due([], 0, START, START + MINUTE)


def test_of_missed_ticks_the_latest_is_sent_and_the_others_are_counted() -> None:
    found = due(MINUTELY, START, START + 1000 * MINUTE)
    assert found == Due([START + 1000 * MINUTE], 999, START + 1000 * MINUTE, START + 1001 * MINUTE)


def test_all_missed_ticks_are_sent_up_to_a_number() -> None:
    found = due(MINUTELY, START, START + 5 * MINUTE, missed="all")
    assert found.ticks == [START + number * MINUTE for number in range(1, 6)]
    assert found.skipped == 0
    found = due(MINUTELY, START, START + 1000 * MINUTE, missed="all")
    assert (len(found.ticks), found.ticks[-1], found.skipped) == (100, START + 1000 * MINUTE, 900)
    found = due(MINUTELY, START, START + 1000 * MINUTE, missed="all", max_missed=3)
    assert (found.ticks, found.skipped) == ([START + number * MINUTE for number in (998, 999, 1000)], 997)


def test_missed_ticks_are_skipped() -> None:
    hourly = every(hours=1)
    assert due(hourly, START, START + 61 * MINUTE, missed="skip").ticks == [START + 60 * MINUTE]
    found = due(hourly, START, START + 90 * MINUTE, missed="skip")
    assert found == Due([], 1, START + 60 * MINUTE, START + 120 * MINUTE)


@pytest.mark.parametrize(("missed", "sent"), [("latest", 0), ("all", 0), ("skip", 0)])
def test_ticks_older_than_the_window_are_not_sent(missed: str, sent: int) -> None:
    found = due(every(hours=1), START, START + 90 * MINUTE, missed=missed, window=29 * MINUTE)  # type: ignore[arg-type]
    assert (len(found.ticks), found.skipped) == (sent, 1)
    found = due(every(hours=1), START, START + 90 * MINUTE, missed=missed, window=30 * MINUTE)  # type: ignore[arg-type]
    assert found.ticks == [START + 60 * MINUTE]


def test_what_may_be_sent_a_number_of_times_ends_then() -> None:
    assert due(MINUTELY, START, START + MINUTE, left=1) == Due([START + MINUTE], 0, START + MINUTE, None)
    found = due(MINUTELY, START, START + 5 * MINUTE, missed="all", left=2)
    assert (found.ticks, found.next) == ([START + MINUTE, START + 2 * MINUTE], None)
    assert due(MINUTELY, START, START + MINUTE, left=0).ticks == []
    assert due(MINUTELY, START, START + MINUTE, left=2).next == START + 2 * MINUTE


def test_a_schedule_that_has_ended_has_no_next_tick() -> None:
    once = at("2026-01-01T00:00Z")
    tick = once.next(0)
    assert tick is not None
    assert due(once, 0, START) == Due([tick], 0, tick, None)
    assert due(once, tick, START) == Due([], 0, tick, None)


@given(schedules(), st.integers(0, 3 * 10**12), st.integers(0, 10**8), st.sampled_from(["latest", "all", "skip"]))
def test_each_due_tick_is_sent_or_counted(schedule: AnySchedule, cursor: int, length: int, missed: str) -> None:
    now = cursor + length
    found = due(schedule, cursor, now, missed=missed)  # type: ignore[arg-type]
    assert len(found.ticks) + found.skipped == schedule.count(cursor, now)
    assert found.ticks == sorted(set(found.ticks))
    assert all(cursor < tick <= found.cursor <= now for tick in found.ticks)
    assert found.next == schedule.next(found.cursor)
    assert found.next is None or found.next > now
    assert due(schedule, found.cursor, now) == Due([], 0, found.cursor, found.next)


@given(schedules(), st.integers(0, 3 * 10**12), st.lists(st.integers(0, 10**7), max_size=10))
def test_ticks_do_not_depend_on_when_one_looks(schedule: AnySchedule, start: int, waits: list[int]) -> None:
    assume(schedule.count(start, start + sum(waits)) <= 2_000)
    once = due(schedule, start, start + sum(waits), missed="all", max_missed=2_000)
    ticks, cursor, now = [], start, start
    for wait in waits:
        now += wait
        found = due(schedule, cursor, now, missed="all", max_missed=2_000)
        ticks += found.ticks
        cursor = found.cursor
    assert ticks == once.ticks


def test_a_night_without_scheduler_is_made_up_for_by_one_tick() -> None:
    found = due(cron("0 3 * * *", tz="Europe/Berlin"), START, START + 24 * 60 * MINUTE)
    assert (len(found.ticks), found.skipped) == (1, 0)


@given(st.binary(min_size=1), st.integers(0, 2**48 - 1))
def test_the_id_of_a_tick_is_a_uuid_of_version_7(salt: bytes, tick: int) -> None:
    found = tick_id(salt, tick)
    parsed = uuid.UUID(found)
    assert (str(parsed), parsed.version, parsed.variant) == (found, 7, uuid.RFC_4122)
    assert parsed.int >> 80 == tick
    assert tick_id(salt, tick) == found


def test_ids_of_ticks_differ_by_salt_and_by_time_and_sort_by_time() -> None:
    ids = [tick_id(salt, START + number) for number in range(100) for salt in (b"a", b"b")]
    assert len({id[15:] for id in ids}) == 200
    assert [id[:13] for id in ids] == sorted(id[:13] for id in ids)


def test_the_random_bits_of_an_id_are_all_used() -> None:
    ones, zeros = 0, 0
    for number in range(200):
        bits = uuid.UUID(tick_id(b"salt", START + number)).int
        ones, zeros = ones | bits, zeros | ~bits
    free = ((1 << 12) - 1) << 64 | (1 << 62) - 1
    assert ones & free == free
    assert zeros & free == free


def test_jitter_is_drawn_by_name_and_tick() -> None:
    drawn = [jitter("report", START + number, 1000) for number in range(2000)]
    assert drawn == [jitter("report", START + number, 1000) for number in range(2000)]
    assert 0 <= min(drawn) < 20
    assert 980 < max(drawn) <= 1000
    assert drawn != [jitter("other", START + number, 1000) for number in range(2000)]
    assert jitter("report", START, 0) == 0
