"""The benchmarks by group and name, in the order in which they run. Each takes a `Stage` and returns a `Report`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks import (
    canvas,
    footprint,
    hub,
    rabbitmq,
    redis,
    results,
    schedules,
    sqlite,
    startup,
    web,
    web_open,
    web_pages,
)
from benchmarks.figures import Report
from benchmarks.stage import Stage

__all__ = ["BENCHMARKS", "GROUPS", "named"]

GROUPS: dict[str, dict[str, Callable[[Stage], Report]]] = {
    "sqlite": {
        "sqlite-delay": sqlite.delay,
        "sqlite-delay-many": sqlite.delay_many,
        "sqlite-drain": sqlite.drain,
        "roundtrip": sqlite.roundtrip,
        "start-up": startup.start_up,
        "idle": footprint.idle,
        "eta": footprint.eta,
    },
    "redis": {
        "redis-drain": redis.drain,
        "redis-drain-results": redis.drain_kept,
        "redis-signing": redis.signing,
        "redis-delay": redis.delay,
        "redis-delay-many": redis.delay_many,
        "redis-roundtrip": redis.roundtrip,
        "redis-sleep": redis.sleeping,
        "redis-coroutines": redis.coroutines,
        "redis-growth": redis.growth,
        "redis-memory": redis.memory,
    },
    "rabbitmq": {
        "rabbitmq-drain": rabbitmq.drain,
        "rabbitmq-delay": rabbitmq.delay,
        "rabbitmq-delay-many": rabbitmq.delay_many,
        "rabbitmq-roundtrip": rabbitmq.roundtrip,
    },
    "hub": {
        "hub-drain": hub.drain,
        "hub-delay": hub.delay,
        "hub-delay-eight": hub.delay_together,
        "hub-delay-many": hub.delay_many,
        "hub-roundtrip": hub.roundtrip,
        "hub-idle": hub.idle,
    },
    "canvas": {
        "canvas-group": canvas.canvas_group,
        "canvas-chord": canvas.canvas_chord,
        "canvas-chain": canvas.canvas_chain,
        "canvas-width": canvas.canvas_width,
        "canvas-bytes": canvas.canvas_bytes,
    },
    "schedules": {
        "schedules-due": schedules.due,
        "schedules-idle": schedules.idle,
        "schedules-start": schedules.start,
    },
    "results": {
        "results-drain": results.drain,
        "results-stores": results.stores,
    },
    "web": {
        "web-send": web.send,
        "web-status": web.status,
        "web-events": web.events,
        "web-pages": web_pages.pages,
        "web-open": web_open.drain,
        "web-browser": web_open.browser,
    },
}
BENCHMARKS = {name: benchmark for group in GROUPS.values() for name, benchmark in group.items()}


def named(names: Sequence[str]) -> list[str]:
    """Return the names of the benchmarks that `names` selects, directly or by group; all if it is empty."""
    return [one for name in names for one in GROUPS.get(name, {name: None})] or list(BENCHMARKS)
