"""Rate limits of a worker, by the clock of the test."""

from __future__ import annotations

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
