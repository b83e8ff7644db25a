"""The control commands of a worker. Each `@_handles` function is one of its name.

Its arguments come from the command, checked against its annotations; its return value is the reply. Called by
`remote_control.py`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import resource
import time
from collections.abc import Callable
from typing import Annotated, Any, Protocol, get_type_hints

import msgspec
from msgspec import Meta

from celeriac.app.app import Celeriac
from celeriac.errors import NotRegistered
from celeriac.model.filters import Filter
from celeriac.model.gate import Duration, Name, OptionalName
from celeriac.model.message import PLAIN
from celeriac.model.options import check_limits
from celeriac.model.options import rate as parse_rate
from celeriac.model.watching import CHANNELS, LONGEST_WATCH, MOST_VALUES, MOST_WATCHED
from celeriac.worker.circumstances import circumstances
from celeriac.worker.options import WorkerOptions, listed
from celeriac.worker.outages import Outages
from celeriac.worker.pools.pool import Pool
from celeriac.worker.receiver import Receiver
from celeriac.worker.settler import Settler

__all__ = ["COMMAND_HANDLERS", "Controlled"]

Handler = Callable[..., Any]
Values = Annotated[tuple[Name, ...], Meta(max_length=MOST_VALUES)]  # of a condition
Count = Annotated[int, Meta(ge=1, le=100)]  # children to add or remove by one command
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MOST_CHILDREN = 1000  # plain children of a worker; more are not added by remote control
COMMAND_HANDLERS: dict[str, Handler] = {}


class Controlled(Protocol):
    """What commands act on. Implemented by the supervisor."""

    app: Celeriac
    options: WorkerOptions
    name: str
    started: float  # monotonic
    listening: asyncio.Event  # set once commands are received
    outages: Outages
    pool: Pool
    receiver: Receiver
    settler: Settler

    def ask_to_stop(self, why: str) -> None:
        """Begin a graceful stop."""


def _handles(function: Handler) -> Handler:
    """Register a handler. Its annotations are the types and bounds of the command's arguments.

    They are checked, all of them, before the handler is called: a command that is refused has changed nothing.
    """
    name = function.__name__.strip("_")
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())[1:]  # without the worker
    fields: list[Any] = [
        (one.name, hints[one.name]) if one.default is one.empty else (one.name, hints[one.name], one.default)
        for one in parameters
    ]
    arguments = msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)

    def handle(worker: Controlled, values: dict[str, Any]) -> Any:
        return function(worker, **msgspec.structs.asdict(msgspec.convert(values, arguments)))

    COMMAND_HANDLERS[name] = handle
    return function


# --- Inspecting ---------------------------------------------------------------------------------------


@_handles
def _ping(worker: Controlled) -> dict[str, str]:
    return {"ok": "pong"}


@_handles
def _stats(worker: Controlled) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "pid": os.getpid(),
        "uptime": time.monotonic() - worker.started,
        "queues": worker.receiver.queues,
        "capacity": worker.pool.capacity(),
        "pool": worker.pool.describe(),
        "rusage": {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_memory_kib": usage.ru_maxrss},
        "tasks": worker.settler.recorder.statistics.summary(),
    }


@_handles
def _load(worker: Controlled) -> dict[str, Any]:
    return {"capacity": worker.pool.capacity(), "busy": worker.pool.busy(), "queues": worker.receiver.queues}


@_handles
def _active(worker: Controlled) -> list[dict[str, Any]]:
    return [
        {
            "id": active.delivery.message.id,
            "task": active.delivery.message.task,
            "queue": active.delivery.message.queue,
            "attempt": active.delivery.message.attempt,
            "deliveries": active.delivery.deliveries,
            "started_at": active.started_at,
            "pid": active.pid,
            "args_bytes": len(active.delivery.message.body),
            "soft_time_limit": active.delivery.message.soft_time_limit,
            "time_limit": active.delivery.message.time_limit,
        }
        for active in worker.pool.active()
        if active.started_at is not None
    ]


@_handles
def _reserved(worker: Controlled) -> list[dict[str, str]]:
    return [
        {"id": active.delivery.message.id, "task": active.delivery.message.task, "queue": active.delivery.message.queue}
        for active in worker.pool.active()
        if active.started_at is None
    ]


@_handles
def _explain(worker: Controlled, id: Name, task: OptionalName = "") -> dict[str, Any]:
    return circumstances(worker.app, worker.receiver, worker.pool, id, task)


@_handles
def _registered(worker: Controlled) -> list[str]:
    return sorted(worker.app.tasks)


# --- Operating ----------------------------------------------------------------------------------------


@_handles
def _terminate(worker: Controlled, ids: list[Name]) -> dict[str, str]:
    worker.pool.terminate(frozenset(ids))
    return {"ok": "terminated those of the tasks that were running"}


@_handles
def _rate_limit(worker: Controlled, task: Name, rate: str | float | None) -> dict[str, str]:
    _check_task(worker, task)
    worker.receiver.rates[task] = parse_rate(rate) if rate else None
    shown = "as often as it can" if not rate else rate if "/" in str(rate) else f"{rate}/s"
    return {"ok": f"{task} may start {shown}"}


@_handles
def _time_limit(worker: Controlled, task: Name, soft: Duration | None = None,
                hard: Duration | None = None) -> dict[str, str]:  # fmt: skip
    _check_task(worker, task)
    check_limits(soft, hard, f"{task}: ")
    worker.receiver.limits[task] = (soft, hard)
    shown = ["none" if limit is None else f"{limit:g} s" for limit in (soft, hard)]
    return {"ok": f"{task} now has: soft limit {shown[0]}, hard limit {shown[1]}"}


@_handles
def _pool_grow(worker: Controlled, n: Count = 1) -> dict[str, str]:
    return _resize(worker, n)


@_handles
def _pool_shrink(worker: Controlled, n: Count = 1) -> dict[str, str]:
    return _resize(worker, -n)


@_handles
def _add_consumer(worker: Controlled, queue: Name) -> dict[str, str]:
    worker.app.check_queue(queue)
    if queue not in worker.receiver.queues:
        worker.receiver.queues.append(queue)
        worker.receiver.freed()
    return {"ok": f"receives from {listed(worker.receiver.queues)}"}


@_handles
def _cancel_consumer(worker: Controlled, queue: Name) -> dict[str, str]:
    if queue in worker.receiver.queues:
        worker.receiver.queues.remove(queue)
        worker.receiver.freed()
    return {"ok": f"receives from {listed(worker.receiver.queues) or 'no queue'}"}


@_handles
def _shutdown(worker: Controlled) -> dict[str, str]:
    worker.ask_to_stop("a control command")
    return {"ok": "shutting down"}


@_handles
def _log_level(worker: Controlled, level: Name) -> dict[str, str]:
    if level.upper() not in LOG_LEVELS:
        raise ValueError(f"level must be one of {', '.join(LOG_LEVELS)}, not {level[:100]!r}.")
    logging.getLogger("celeriac").setLevel(level.upper())
    return {"ok": f"log level {level.upper()}"}


@_handles
def _watch(worker: Controlled, channel: Name, seconds: Annotated[float, Meta(ge=0.0, le=LONGEST_WATCH)],
           rate: Annotated[float, Meta(gt=0.0, le=MOST_WATCHED)] = 50.0, tasks: Values = (), queues: Values = (),
           states: Values = (), roots: Values = ()) -> dict[str, str]:  # fmt: skip
    if not channel.startswith(CHANNELS):
        raise ValueError(f"channel must begin with {CHANNELS!r}, not {channel[:100]!r}.")
    chosen = Filter(tasks=tasks, queues=queues, states=states, roots=roots)
    worker.settler.recorder.watches.watch(channel, chosen, rate, seconds)
    return {"ok": "tells what ends" if seconds else "tells no more"}


@_handles
async def _write_history(worker: Controlled) -> dict[str, str]:
    await worker.settler.recorder.written()
    return {"ok": "the history has all that had ended"}


def _resize(worker: Controlled, change: int) -> dict[str, str]:
    """Add or remove plain children; return the reply. Raises `ValueError` if the number does not change."""
    before = worker.pool.capacity()[PLAIN]
    if before + change > MOST_CHILDREN:
        raise ValueError(f"The pool cannot grow to {before + change}: {MOST_CHILDREN} are the most for one worker.")
    now = worker.pool.resize(change)
    if now == before:
        why = "a solo worker runs one plain function at a time" if worker.options.pool == "solo" else "one child stays"
        raise ValueError(f"The pool cannot {'grow' if change > 0 else 'shrink'}: {why}.")
    rest = "" if now - before == change else "; one child stays"
    return {"ok": f"{'grows' if change > 0 else 'shrinks'} by {abs(now - before)}, to {now} for plain functions{rest}"}


def _check_task(worker: Controlled, task: str) -> None:
    if task not in worker.app.tasks:
        raise NotRegistered(task, worker.app.tasks)
