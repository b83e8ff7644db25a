"""Which release declares an app's schedules, while schedulers of several releases run and are started again."""

from __future__ import annotations

from msgspec.structs import replace

from celeriac.beat.release import LEAVES, MOST, RENEWED, RUNS, Release, agreed, ended

OLD, NEW, NEWEST = (letter * 16 for letter in (b"o", b"n", b"w"))
NOW = 1_800_000_000_000


def record(*digests: bytes, until: int = NOW + RUNS) -> Release:
    return Release(list(digests), until, b"mark")


def test_the_first_scheduler_puts_its_release_in_force() -> None:
    made = agreed(None, None, NEW, NOW)
    assert (made.digests, made.until) == ([NEW], NOW + RUNS)
    assert made.mark


def test_a_release_that_was_never_seen_is_put_in_force_at_once() -> None:
    made = agreed(record(OLD), None, NEW, NOW)
    assert (made.digests, made.until) == ([OLD, NEW], NOW + RUNS)
    assert made.mark != b"mark"


def test_an_older_release_waits_while_the_one_in_force_runs() -> None:
    known = record(OLD, NEW, until=NOW + 1)
    assert agreed(known, None, OLD, NOW) is known


def test_an_older_release_is_put_in_force_when_the_newer_one_does_not_run_any_more() -> None:
    made = agreed(record(OLD, NEW, NEWEST, until=NOW), None, OLD, NOW)
    assert (made.digests, made.until) == ([NEW, NEWEST, OLD], NOW + RUNS)
    assert made.mark != b"mark"


def test_a_scheduler_of_the_release_in_force_says_that_it_runs_and_not_too_often() -> None:
    known = record(OLD, NEW)
    assert agreed(known, None, NEW, NOW + RENEWED - 1) is known
    assert agreed(known, None, NEW, NOW + RENEWED) == replace(known, until=NOW + RENEWED + RUNS)


def test_a_release_whose_scheduler_stops_runs_on_if_there_is_another_one() -> None:
    stopped = ended(record(OLD, NEW), NOW)
    assert stopped.until == NOW + LEAVES
    assert agreed(stopped, None, NEW, NOW).until == NOW + RUNS
    assert agreed(stopped, None, OLD, NOW) is stopped
    assert agreed(stopped, None, OLD, NOW + LEAVES).in_force == OLD


def test_a_record_that_was_lost_is_made_again_as_any_scheduler_saw_it_last() -> None:
    lost = record(OLD, NEW)
    for digest in (OLD, NEW):
        made = agreed(None, lost, digest, NOW)
        assert made.digests == [OLD, NEW]
        assert made.mark != lost.mark


def test_no_more_than_some_releases_are_remembered() -> None:
    known = None
    for number in range(MOST + 5):
        known = agreed(known, None, bytes([number]) * 16, NOW)
    assert known is not None
    assert [digest[0] for digest in known.digests] == list(range(5, MOST + 5))
