"""Receives control commands on the control channel, has their handlers run (`commands.py`), and sends the replies.

Called by the supervisor; commands are sent by `app.control` and the inspector. While the coroutine of a command is
awaited, others are carried out.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
from collections.abc import Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from celeriac.app.control import COMMANDS, Command, Reply, encode, read_command
from celeriac.errors import AccessRefused, BrokerError, CeleriacError, EncodeError, nearest
from celeriac.lazy import LazyModule
from celeriac.model.gate import Unreadable
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.broker import MISSED, Broker
from celeriac.worker.commands import COMMAND_HANDLERS, Controlled
from celeriac.worker.heartbeat import FIRST_PAUSE, next_pause

if TYPE_CHECKING:
    from celeriac.model import seals
else:
    seals = LazyModule("celeriac.model.seals")

__all__ = ["Repetitions", "serve_commands"]

log = logging.getLogger("celeriac.worker")

COMMAND_SECONDS = 120.0  # how old a signed command may be, and how far the clocks of machines may differ
LAST_SECONDS = 1.0  # for the last reply of a worker that stops
LISTEN = "listen for control commands"  # the duty, for `Outages`


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
    broker, warnings = worker.app.broker, RepeatedWarnings(log)
    slow: set[asyncio.Task[None]] = set()  # replies of commands that take their time
    try:
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
                    warnings.warn("Ignored a control command that cannot be read: %s", error)
                    continue
                if command.destination is not None and worker.name not in command.destination:
                    continue
                reply = _handle(worker, command)
                if isinstance(reply, Reply):
                    await _finished(asyncio.ensure_future(_send(broker, command, reply)))
                else:
                    slow.add(task := asyncio.ensure_future(_send_later(broker, command, reply)))
                    task.add_done_callback(slow.discard)
    finally:
        for task in slow:
            task.cancel()


async def _send_later(broker: Broker, command: Command, reply: Awaitable[Reply]) -> None:
    await _send(broker, command, await reply)


async def _send(broker: Broker, command: Command, reply: Reply) -> None:
    """Send a reply, if one is wanted."""
    channel = command.reply_to
    if channel is None:
        return
    reply.host, reply.pid = socket.gethostname(), os.getpid()
    try:
        await broker.broadcast(channel, [broker.codec.seal("reply", encode(reply), channel)])
    except (BrokerError, EncodeError) as error:
        log.warning("Cannot send the reply to the control command %s: %s", command.name, error)


async def _finished(sending: asyncio.Future[None]) -> None:
    """Wait until a reply is sent. A worker that stops, as this very command may have told it, sends it first."""
    try:
        await asyncio.shield(sending)
    except asyncio.CancelledError:
        await asyncio.wait([sending], timeout=LAST_SECONDS)
        sending.cancel()
        raise


def _handle(worker: Controlled, command: Command) -> Reply | Awaitable[Reply]:
    handler = COMMAND_HANDLERS.get(command.name)
    if handler is None:
        hint = nearest(command.name, COMMAND_HANDLERS)
        return Reply(worker.name, error=f"There is no command {command.name!r}.{hint}")
    try:
        value = handler(worker, command.arguments)
    except Exception as error:  # noqa: BLE001 - `_failed` logs what nobody expects
        return _failed(worker, command, error)
    return _later(worker, command, value) if inspect.isawaitable(value) else Reply(worker.name, value)


async def _later(worker: Controlled, command: Command, value: Awaitable[Any]) -> Reply:
    try:
        return Reply(worker.name, await value)
    except Exception as error:  # noqa: BLE001 - `_failed` logs what nobody expects
        return _failed(worker, command, error)


def _failed(worker: Controlled, command: Command, error: Exception) -> Reply:
    match error:
        case msgspec.ValidationError():
            told = f"The command {command.name} has wrong arguments: {error}."
        case CeleriacError() | ValueError():
            told = str(error)
        case _:  # a fault of Celeriac's; it must not end the worker
            log.error("The control command %s failed", command.name, exc_info=error)
            told = f"The command failed in the worker: {type(error).__name__}: {error}"
    return Reply(worker.name, error=told)
