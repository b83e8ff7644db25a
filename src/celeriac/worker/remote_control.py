"""Carries out control commands: receives them on the control channel, runs their handlers, sends the replies.

Each `@_handles` function is a command of its name. Its arguments come from the command, checked against its
annotations; its return value is the reply.
Called by the supervisor; sent by `app.control` and the inspector.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Protocol, get_type_hints

import msgspec
from msgspec import Meta

from celeriac.app.app import Celeriac
from celeriac.app.control import COMMANDS, Command, Reply, encode, read_command
from celeriac.errors import AccessRefused, BrokerError, CeleriacError, EncodeError, NotRegistered, nearest
from celeriac.lazy import LazyModule
from celeriac.model.filters import Filter
from celeriac.model.gate import Duration, Name, OptionalName, Unreadable
from celeriac.model.message import PLAIN
from celeriac.model.options import check_limits
from celeriac.model.options import rate as parse_rate
from celeriac.model.watching import CHANNELS, LONGEST_WATCH, MOST_VALUES, MOST_WATCHED
from celeriac.ports.broker import MISSED, Broker
from celeriac.worker.circumstances import circumstances
from celeriac.worker.heartbeat import FIRST_PAUSE, next_pause
from celeriac.worker.options import WorkerOptions, listed
from celeriac.worker.outages import Outages
from celeriac.worker.pools.pool import Pool
from celeriac.worker.receiver import Receiver
from celeriac.worker.settler import Settler

if TYPE_CHECKING:
    from celeriac.model import seals
else:
    seals = LazyModule("celeriac.model.seals")

__all__ = ["COMMAND_HANDLERS", "Controlled", "Repetitions", "serve_commands"]

log = logging.getLogger("celeriac.worker")

Handler = Callable[..., Any]
Values = Annotated[tuple[Name, ...], Meta(max_length=MOST_VALUES)]  # of a condition
Count = Annotated[int, Meta(ge=1, le=100)]  # children to add or remove by one command
COMMAND_SECONDS = 120.0  # how old a signed command may be, and how far the clocks of machines may differ
LAST_SECONDS = 1.0  # for the last reply of a worker that stops
LISTEN = "listen for control commands"  # the duty, for `Outages`
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


async def serve_commands(worker: Controlled) -> None:
    """Listen on the control channel until cancelled. With `worker_remote_control=False`, only wait."""
    if not worker.app.conf.worker_remote_control:
        worker.listening.set()
        await asyncio.get_running_loop().create_future()
    pause, repetitions = FIRST_PAUSE, Repetitions()
    while True:
        try:
            await _listen(worker, repetitions)
        except AccessRefused:
            raise
        except BrokerError as error:
            worker.outages.failed(LISTEN, error)
        await asyncio.sleep(pause)
        pause = next_pause(pause)


class Repetitions:
    """Refuses signed commands that are repeated: they are old, or their nonce has come before."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}  # nonces of the last minutes, the oldest first; when each came

    def check(self, command: Command, now: float) -> None:
        """Raise `Unreadable` for a repeated command."""
        if abs(now - command.sent_at) > COMMAND_SECONDS:
            raise Unreadable(f"it was sent {now - command.sent_at:.0f} s ago, and at most {COMMAND_SECONDS:.0f} s are "
                             "allowed: it is repeated, or the clocks of the machines differ")  # fmt: skip
        while self._seen and (oldest := next(iter(self._seen))) and self._seen[oldest] < now - 2 * COMMAND_SECONDS:
            del self._seen[oldest]
        if command.nonce in self._seen:
            raise Unreadable("it is repeated")
        self._seen[command.nonce] = now


async def _listen(worker: Controlled, repetitions: Repetitions) -> None:
    broker = worker.app.broker
    async with aclosing(await broker.listen(COMMANDS)) as commands:  # type: ignore[type-var]
        worker.listening.set()
        worker.outages.worked(LISTEN)
        async for payload in commands:
            if payload is MISSED:
                continue
            try:
                command = read_command(broker.codec.open("command", payload))
                if seals.is_sealed(payload):
                    repetitions.check(command, worker.app.clock.now())
            except ValueError as error:
                log.warning("Ignored a control command that cannot be read: %s", error)
                continue
            if command.destination is not None and worker.name not in command.destination:
                continue
            reply = _handle(worker, command)
            reply.host, reply.pid = socket.gethostname(), os.getpid()
            if command.reply_to is not None:
                await _finished(asyncio.ensure_future(_send(broker, command.name, reply, command.reply_to)))


async def _send(broker: Broker, name: str, reply: Reply, channel: str) -> None:
    try:
        await broker.broadcast(channel, [broker.codec.seal("reply", encode(reply), channel)])
    except (BrokerError, EncodeError) as error:
        log.warning("Cannot send the reply to the control command %s: %s", name, error)


async def _finished(sending: asyncio.Future[None]) -> None:
    """Wait until a reply is sent. A worker that stops, as this very command may have told it, sends it first."""
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait([sending], timeout=LAST_SECONDS)
        sending.cancel()
        raise


def _handle(worker: Controlled, command: Command) -> Reply:
    handler = COMMAND_HANDLERS.get(command.name)
    if handler is None:
        hint = nearest(command.name, COMMAND_HANDLERS)
        return Reply(worker.name, error=f"There is no command {command.name!r}.{hint}")
    try:
        return Reply(worker.name, handler(worker, command.arguments))
    except msgspec.ValidationError as error:
        return Reply(worker.name, error=f"The command {command.name} has wrong arguments: {error}.")
    except (CeleriacError, ValueError) as error:
        return Reply(worker.name, error=str(error))
    except Exception as error:  # a fault of Celeriac's; it must not end the worker
        log.exception("The control command %s failed", command.name)
        return Reply(worker.name, error=f"The command failed in the worker: {type(error).__name__}: {error}")


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
    return {"ok": f"terminated those of {len(ids)} tasks that were running"}


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
