"""The benchmarks by name, in the order in which they run. Each takes a `Stage` and returns a `Report`."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import footprint, sqlite, startup
from benchmarks.figures import Report
from benchmarks.stage import Stage

__all__ = ["BENCHMARKS"]

BENCHMARKS: dict[str, Callable[[Stage], Report]] = {
    "sqlite-delay": sqlite.delay,
    "sqlite-delay-many": sqlite.delay_many,
    "sqlite-drain": sqlite.drain,
    "roundtrip": sqlite.roundtrip,
    "start-up": startup.start_up,
    "idle": footprint.idle,
    "eta": footprint.eta,
}
