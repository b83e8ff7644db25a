"""Rate limits of a worker, by the clock of the test."""

from __future__ import annotations

import pytest

from celeriac.worker.rates import HORIZON, LATE, RateLimits

NOW = 1_800_000_000.0
RATE = 1_000.0  # so that more start times can be reserved than are kept without a look at their age


def test_reservations_are_not_searched_for_old_ones_at_each_message() -> None:
    limits = RateLimits()
    kept = [limits._reserved]
    for number in range(int(RATE * HORIZON)):
        limits.admit(str(number), "t", RATE, NOW)
        if kept[-1] is not limits._reserved:
            kept.append(limits._reserved)
    assert len(limits._reserved) > 1000
    assert len(kept) <= 2


def test_reservations_that_are_not_used_are_forgotten() -> None:
    limits = RateLimits()
    for second in range(10):
        for number in range(int(RATE * HORIZON)):
            limits.admit(f"{second} {number}", "t", RATE, NOW + second * (HORIZON + LATE + 1))
    assert len(limits._reserved) <= 2 * RATE * (HORIZON + 1)


def test_a_clock_that_is_set_back_stalls_no_task_and_raises_no_rate() -> None:
    limits = RateLimits()
    for number in range(3):
        limits.admit(str(number), "t", 10.0, NOW)
    now = NOW - 3600
    assert limits.admit("2", "t", 10.0, now) == pytest.approx(now + 0.1, abs=1e-3)
    assert limits.admit("3", "t", 10.0, now) == pytest.approx(now + 0.2, abs=1e-3)
    assert limits.admit("2", "t", 10.0, now + 0.11) is None


def test_a_clock_that_is_set_back_stalls_no_message_that_has_no_reservation() -> None:
    limits = RateLimits()
    for _ in range(2):
        backs = [limits.admit(f"{number}", "t", 1.0, NOW) for number in range(100)]
        assert None not in backs[1:]
    now = NOW - 3600
    backs = [limits.admit(f"new {number}", "t", 1.0, now) for number in range(10)]
    assert max(back for back in backs if back is not None) < now + 20
    assert backs[0] is not None, "the rate is kept"


def test_a_clock_that_is_set_back_a_little_raises_no_rate() -> None:
    limits = RateLimits()
    for number in range(200):
        limits.admit(str(number), "t", 10.0, NOW)
    assert (limits.admit("new", "t", 10.0, NOW - 1) or 0.0) > NOW + HORIZON - 2


def test_a_higher_rate_holds_from_the_next_message_on() -> None:
    limits = RateLimits()
    assert limits.admit("a", "t", 1 / 3600, NOW) is None
    assert limits.admit("b", "t", 10.0, NOW) == pytest.approx(NOW + 0.1, abs=1e-3)
