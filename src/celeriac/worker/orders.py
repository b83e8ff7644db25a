"""Control commands, as a worker carries them out: `@order` functions of the supervisor and what they answer."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from celeriac.control import COMMANDS, Command, Reply
from celeriac.errors import BrokerError, CeleriacError, NotRegistered, nearest
from celeriac.message import PLAIN
from celeriac.options import rate as parse_rate
from celeriac.serialization import dumps, loads
from celeriac.worker.heartbeat import FIRST_PAUSE, longer

if TYPE_CHECKING:
    from celeriac.worker.supervisor import Supervisor

__all__ = ["ORDERS", "obey_orders"]

log = logging.getLogger("celeriac.worker")

Order = Callable[..., Any]
ORDERS: dict[str, Order] = {}


async def obey_orders(worker: Supervisor) -> None:
    """Listen on the control channel, for ever."""
    pause = FIRST_PAUSE
    while True:
        try:
            await _listen(worker)
        except BrokerError as error:
            log.warning("Cannot listen to control commands, trying again in %.1f s: %s", pause, error)
        await asyncio.sleep(pause)
        pause = longer(pause)


async def _listen(worker: Supervisor) -> None:
    broker = worker.app.broker
    async with aclosing(await broker.listen(COMMANDS)) as commands:  # type: ignore[type-var]
        worker.listening.set()
        async for payload in commands:
            try:
                command = msgspec.convert(loads(payload), Command)
            except (CeleriacError, msgspec.ValidationError) as error:
                log.warning("A control command cannot be read: %s", error)
                continue
            if command.destination is not None and worker.name not in command.destination:
                continue
            reply = _obey(worker, command)
            if command.reply_to is not None:
                try:
                    await broker.broadcast(command.reply_to, [dumps(msgspec.to_builtins(reply))])
                except BrokerError as error:
                    log.warning("The answer to the control command %s is lost: %s", command.name, error)


def _obey(worker: Supervisor, command: Command) -> Reply:
    order = ORDERS.get(command.name)
    if order is None:
        return Reply(worker.name, error=f"There is no command {command.name!r}.{nearest(command.name, ORDERS)}")
    try:
        return Reply(worker.name, order(worker, **command.arguments))
    except (CeleriacError, TypeError, ValueError) as error:
        return Reply(worker.name, error=str(error))


def _order(function: Order) -> Order:
    ORDERS[function.__name__.strip("_")] = function
    return function


# --- Looking ------------------------------------------------------------------------------------------


@_order
def _ping(worker: Supervisor) -> dict[str, str]:
    return {"ok": "pong"}


@_order
def _stats(worker: Supervisor) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "pid": os.getpid(),
        "uptime": time.monotonic() - worker.started,
        "queues": worker.receiver.queues,
        "capacity": worker.pool.capacity(),
        "pool": worker.pool.describe(),
        "rusage": {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_memory_kib": usage.ru_maxrss},
        "tasks": worker.settling.statistics.summary(),
    }


@_order
def _active(worker: Supervisor) -> list[dict[str, Any]]:
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
        }
        for active in worker.pool.active()
        if active.started_at is not None
    ]


@_order
def _reserved(worker: Supervisor) -> list[dict[str, str]]:
    return [
        {"id": active.delivery.message.id, "task": active.delivery.message.task, "queue": active.delivery.message.queue}
        for active in worker.pool.active()
        if active.started_at is None
    ]


@_order
def _registered(worker: Supervisor) -> list[str]:
    return sorted(worker.app.tasks)


# --- Operating ----------------------------------------------------------------------------------------


@_order
def _terminate(worker: Supervisor, ids: list[str]) -> dict[str, str]:
    worker.pool.terminate(frozenset(ids))
    return {"ok": f"terminated what ran of {len(ids)} tasks"}


@_order
def _rate_limit(worker: Supervisor, task: str, rate: str | None) -> dict[str, str]:
    _known(worker, task)
    worker.receiver.rates[task] = parse_rate(rate) if rate else None
    told = "as often as it can" if not rate else rate if "/" in str(rate) else f"{rate}/s"
    return {"ok": f"{task} may start {told}"}


@_order
def _time_limit(worker: Supervisor, task: str, soft: float | None = None, hard: float | None = None) -> dict[str, str]:
    _known(worker, task)
    worker.receiver.limits[task] = (soft, hard)
    told = ["none" if limit is None else f"{limit:g} s" for limit in (soft, hard)]
    return {"ok": f"{task} has from now on: soft limit {told[0]}, hard limit {told[1]}"}


@_order
def _pool_grow(worker: Supervisor, n: int = 1) -> dict[str, str]:
    return _resize(worker, n)


@_order
def _pool_shrink(worker: Supervisor, n: int = 1) -> dict[str, str]:
    return _resize(worker, -n)


@_order
def _add_consumer(worker: Supervisor, queue: str) -> dict[str, str]:
    worker.app.check_queue(queue)
    if queue not in worker.receiver.queues:
        worker.receiver.queues.append(queue)
        worker.receiver.freed()
    return {"ok": f"receives from {', '.join(worker.receiver.queues)}"}


@_order
def _cancel_consumer(worker: Supervisor, queue: str) -> dict[str, str]:
    if queue in worker.receiver.queues:
        worker.receiver.queues.remove(queue)
        worker.receiver.freed()
    return {"ok": f"receives from {', '.join(worker.receiver.queues) or 'no queue'}"}


@_order
def _shutdown(worker: Supervisor) -> dict[str, str]:
    worker.ask_to_stop("a control command")
    return {"ok": "shutting down"}


@_order
def _log_level(worker: Supervisor, level: str) -> dict[str, str]:
    logging.getLogger("celeriac").setLevel(level.upper())
    return {"ok": f"log level {level.upper()}"}


def _resize(worker: Supervisor, change: int) -> dict[str, str]:
    """Add or remove plain children, and say what comes of it. Raises `ValueError` where nothing does."""
    before = worker.pool.capacity()[PLAIN]
    now = worker.pool.resize(change)
    if now == before:
        why = "a solo worker runs one plain function at a time" if worker.options.pool == "solo" else "one child stays"
        raise ValueError(f"The pool cannot {'grow' if change > 0 else 'shrink'}: {why}.")
    rest = "" if now - before == change else "; one child stays"
    return {"ok": f"{'grows' if change > 0 else 'shrinks'} by {abs(now - before)}, to {now} for plain functions{rest}"}


def _known(worker: Supervisor, task: str) -> None:
    if task not in worker.app.tasks:
        raise NotRegistered(task, worker.app.tasks)
