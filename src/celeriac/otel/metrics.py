"""Metrics of a worker, from what it counts anyway. They cost nothing until they are read.

`worker/supervisor.py` calls `observe` when the worker is ready, if OpenTelemetry's metrics are in use in its process.
OpenTelemetry has no instrument that takes the buckets of a histogram, so durations are sums: with the number of
messages they give means. Histograms are in the history, and at `/metrics`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Final, NamedTuple, TypeAlias

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from celeriac.__about__ import VERSION
from celeriac.model.history import Sums
from celeriac.otel.spans import SCHEMA

__all__ = ["Counted", "observe"]

Kind: TypeAlias = tuple[str, str, str, str]
Counted: TypeAlias = Sequence[tuple[Kind, Sums]]
"""What was counted since the worker started, by task, queue, state and class of the exception, in parts."""


class _Total(NamedTuple):
    n: int = 0
    runtime: float = 0.0  # seconds
    wait: float = 0.0


READ_SECONDS: Final = 5.0  # for the event loop to reply to another thread

INSTRUMENTS: Final[Mapping[str, tuple[str, str, Callable[[_Total], float]]]] = {
    "messaging.client.consumed.messages": ("{message}", "Attempts that have ended.", lambda total: total.n),
    "celeriac.process.time": ("s", "For how long they have run, in all.", lambda total: total.runtime),
    "celeriac.wait.time": ("s", "For how long they could have run and had not begun, in all.",
                           lambda total: total.wait),
}  # fmt: skip


def observe(loop: asyncio.AbstractEventLoop, counted: Callable[[], Counted]) -> None:
    """Let a reader of metrics see what `counted` returns. That is called in the thread of the loop, which calls this.

    Once the loop has ended, it is called by the reader.
    """
    thread = threading.get_ident()
    meter = metrics.get_meter("celeriac", VERSION, schema_url=SCHEMA)

    def now() -> dict[Kind, _Total]:
        if threading.get_ident() == thread:
            return _totals(counted())
        found: Future[dict[Kind, _Total]] = Future()
        try:
            loop.call_soon_threadsafe(lambda: found.set_result(_totals(counted())))
        except RuntimeError:  # it is closed
            return _totals(counted())
        return found.result(READ_SECONDS)

    def callback(value: Callable[[_Total], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda options: [Observation(value(total), _attributes(*kind)) for kind, total in now().items()]

    for name, (unit, description, value) in INSTRUMENTS.items():
        meter.create_observable_counter(name, [callback(value)], unit, description)


def _totals(counted: Counted) -> dict[Kind, _Total]:
    found: dict[Kind, _Total] = {}
    for kind, sums in counted:
        n, runtime, wait = found.get(kind, _Total())
        found[kind] = _Total(n + sums.n, runtime + sums.runtime.total, wait + sums.wait.total)
    return found


def _attributes(task: str, queue: str, state: str, error: str) -> dict[str, str]:
    found = {
        "messaging.system": "celeriac", "messaging.operation.name": "process", "messaging.operation.type": "process",
        "messaging.destination.name": queue, "celeriac.task": task, "celeriac.state": state,
    }  # fmt: skip
    return {**found, "error.type": error.removeprefix("builtins.")} if error else found
