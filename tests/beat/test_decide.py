"""What happens to an entry that is due: ticks, missed ones, overlaps, limits."""

from __future__ import annotations

from typing import Any

import pytest

from celeriac.beat.decide import LOOK_AGAIN, beginning, decide
from celeriac.beat.definition import Definition, decode_definition, encode_definition
from celeriac.beat.template import Template
from celeriac.model.message import Message, encode, new_id
from celeriac.ports.schedules import Entry
from celeriac.schedules.intervals import every
from celeriac.schedules.once import at

ID = new_id()
WHAT = Template("t", [encode(Message(id=ID, task="t"))], 1, [0])


def definition(**fields: Any) -> Definition:
    return Definition(**{"when": every(10), "what": WHAT, **fields})


def entry(cursor: int = 0, **fields: Any) -> Entry:
    return Entry(name="x", cursor=cursor, next_at=cursor + 10_000, **fields)


def test_a_tick_is_sent_when_it_is_due_and_the_cursor_moves_to_it() -> None:
    decision = decide(entry(), definition(), 10_500, runs=False)
    assert decision.ticks == [10_000]
    assert (decision.after.cursor, decision.after.next_at, decision.after.sent) == (10_000, 20_000, 1)
    assert decision.after.last_at == 10_000


def test_before_its_time_nothing_is_sent() -> None:
    decision = decide(entry(), definition(), 9_999, runs=False)
    assert (decision.ticks, decision.after.cursor, decision.after.next_at) == ([], 0, 10_000)


@pytest.mark.parametrize(
    ("fields", "sent", "missed"),
    [
        ({}, [100_000], 9),
        ({"missed": "all"}, [10_000 * number for number in range(1, 11)], 0),
        ({"missed": "all", "max_missed": 3}, [80_000, 90_000, 100_000], 7),
        ({"missed": "all", "window": 25_000}, [80_000, 90_000, 100_000], 7),
        ({"missed": "skip"}, [100_000], 9),
        ({"missed": "skip", "window": 1_000}, [], 10),
    ],
    ids=str,
)
def test_of_missed_ticks_the_policy_picks(fields: dict[str, Any], sent: list[int], missed: int) -> None:
    decision = decide(entry(), definition(**fields), 103_000, runs=False)
    assert (decision.ticks, decision.missed) == (sent, missed)
    assert (decision.after.cursor, decision.after.next_at) == (100_000, 110_000)
    assert decision.after.sent + decision.after.missed == 10


def test_with_overlap_skip_a_tick_is_left_out_while_the_last_one_runs() -> None:
    busy = decide(entry(), definition(overlap="skip"), 10_500, runs=True)
    assert (busy.ticks, busy.skipped, busy.after.cursor, busy.after.next_at) == ([], 1, 10_000, 20_000)
    assert decide(entry(), definition(overlap="skip"), 10_500, runs=False).ticks == [10_000]


def test_with_overlap_one_the_latest_tick_waits_for_the_end() -> None:
    one = definition(overlap="one")
    busy = decide(entry(), one, 10_500, runs=True)
    assert (busy.ticks, busy.after.cursor, busy.after.next_at) == ([], 0, 10_500 + LOOK_AGAIN)
    ended = decide(busy.after, one, 35_000, runs=False)
    assert (ended.ticks, ended.after.cursor, ended.after.next_at) == ([30_000], 30_000, 40_000)


def test_with_overlap_all_each_tick_waits_for_the_end_of_the_one_before() -> None:
    one_by_one, now, found = definition(overlap="all"), 35_000, []
    current = entry()
    for runs in (False, True, False, False):
        decision = decide(current, one_by_one, now, runs)
        found += decision.ticks
        current = decision.after
        now += LOOK_AGAIN
    assert found == [10_000, 20_000, 30_000]
    assert (current.cursor, current.next_at, current.missed) == (30_000, 40_000, 0)


def test_with_overlap_cancel_what_runs_is_revoked() -> None:
    cancel = definition(overlap="cancel")
    assert decide(entry(last_at=0), cancel, 10_500, runs=True).cancels
    assert not decide(entry(last_at=0), cancel, 10_500, runs=False).cancels
    assert decide(entry(last_at=0), cancel, 10_500, runs=True).ticks == [10_000]


def test_after_so_many_times_it_is_over() -> None:
    twice = definition(times=2, missed="all")
    decision = decide(entry(), twice, 45_000, runs=False)
    assert (decision.ticks, decision.after.next_at) == ([10_000, 20_000], None)
    assert beginning(decision.after, twice, 50_000).next_at is None


def test_a_tick_that_is_left_out_does_not_count_towards_its_times() -> None:
    decision = decide(entry(), definition(times=1, overlap="skip"), 10_500, runs=True)
    assert (decision.ticks, decision.after.next_at) == ([], 20_000)


def test_a_claim_is_decided_again_as_it_was() -> None:
    before = entry(claimed_at=10_500)
    decision = decide(before, definition(), 55_000, runs=False)
    assert (decision.ticks, decision.missed, decision.after.cursor) == ([10_000], 0, 10_000)
    assert decision.after.claimed_at is None


def test_a_cursor_never_goes_back() -> None:
    after = beginning(entry(50_000), definition(), 20_000)
    assert (after.cursor, after.next_at) == (50_000, 60_000)


def test_an_instant_is_over_once_it_is_sent() -> None:
    decision = decide(entry(), definition(when=at("1970-01-01T00:00:30+00:00")), 31_000, runs=False)
    assert (decision.ticks, decision.after.next_at) == ([30_000], None)


def test_a_definition_is_stored_and_read_as_it_was() -> None:
    given = definition(missed="all", window=5, overlap="one", overlap_timeout=7, jitter=3, times=2, origin="code")
    assert decode_definition(encode_definition(given)) == given
