"""Counts the workers of a server, and asks them what they do.

Each worker announces itself to the server, which therefore knows how many there are. To learn more, broadcast a roll
call, to which each of them answers on the channel that the call names; wait for as many answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec

from celeriac.brokers.queue_server.listener import Listener
from celeriac.brokers.queue_server.sender import Sender
from celeriac.brokers.queue_server.transport import WorkerConnection
from celeriac.errors import BrokerError
from celeriac.model.gate import reader
from celeriac.model.message import new_id
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.operations import WorkerInfo

__all__ = ["ANSWER_SECONDS", "Presence", "answer_roll_calls", "call_roll"]

log = logging.getLogger("celeriac.brokers")
warnings = RepeatedWarnings(log)

CHANNEL = "roll"
ANSWER_SECONDS = 3.0  # for workers to answer; a busy one answers late, and without its answer counts would be wrong


class Presence(msgspec.Struct):
    """A worker's answer."""

    worker: WorkerInfo
    held: dict[str, int]  # number of unsettled deliveries, by queue


_read: Callable[[bytes | memoryview], Presence] = reader(Presence, "the presence of a worker")


async def answer_roll_calls(connection: WorkerConnection, presence: Callable[[], Presence], sender: Sender,
                            start_job: Callable[[Callable[[], Awaitable[None]]], None]) -> None:  # fmt: skip
    """Be counted, and answer roll calls while the connection stands. Each answer is a job, and tried once."""

    codec = sender.transport.codec

    async def answer(channel: str) -> None:
        try:
            await sender.broadcast(channel, [codec.seal("worker", msgspec.msgpack.encode(presence()))])
        except BrokerError as error:
            log.warning("Cannot answer a question about this worker: %s", error)

    def called(body: bytes) -> None:
        try:
            start_job(partial(answer, body.decode()))
        except UnicodeDecodeError:
            warnings.warn("A roll call of %d bytes names no channel and is ignored", len(body))

    await connection.follow(CHANNEL, called)
    await connection.announce()


async def call_roll(sender: Sender, present: int) -> list[Presence]:
    """Return the answers of so many workers; fewer, if one does not answer within `ANSWER_SECONDS`."""
    if not present:
        return []
    listener = Listener(sender.transport, f"{CHANNEL}.{new_id()}")
    await listener.open()
    found: list[Presence] = []
    answers = listener.listening()
    try:
        await sender.broadcast(CHANNEL, [listener.channel.encode()])
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(found) < present:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                answer = await anext(answers)
                try:
                    found.append(_read(sender.transport.codec.open("worker", answer)))
                except ValueError as error:
                    warnings.warn("The answer of a worker to a roll call is unreadable: %s", error)
    except TimeoutError:
        pass  # one is suspended, or shutting down: its lease will end
    finally:
        await answers.aclose()
    return found
