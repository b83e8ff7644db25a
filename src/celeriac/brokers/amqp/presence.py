"""The roll: how workers are counted, and asked who they are.

Each worker consumes from the roll's queue, into which nothing is ever sent; so the server knows how many there are. Who
wants to know more asks on a channel that all of them hear, and waits for as many answers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec
from pamqp import commands

from celeriac.brokers.amqp.listener import Listener
from celeriac.drivers.amqp.aio import AioConnection
from celeriac.drivers.amqp.frames import Content
from celeriac.drivers.amqp.server import Server
from celeriac.drivers.amqp.topology import Topology
from celeriac.errors import BrokerError
from celeriac.model.message import new_id
from celeriac.ports.operations import WorkerInfo

__all__ = ["ANSWER_SECONDS", "Presence", "call_roll", "enrol"]

log = logging.getLogger("celeriac.amqp")

CHANNEL = "roll"
ANSWER_SECONDS = 3.0  # for workers to answer; who is busy answers late, and without it counts would be wrong

Broadcast = Callable[[str, Sequence[bytes]], Awaitable[None]]


class Presence(msgspec.Struct):
    """How a worker answers."""

    worker: WorkerInfo
    held: dict[str, int]  # by queue


async def enrol(connection: AioConnection, topology: Topology, presence: Callable[[], Presence], broadcast: Broadcast,
                errand: Callable[[Callable[[], Awaitable[None]]], None]) -> None:  # fmt: skip
    """Be counted, and answer for as long as the connection stands; each answer is an errand, and tried once."""

    async def answer(channel: str) -> None:
        try:
            await broadcast(channel, [msgspec.msgpack.encode(presence())])
        except BrokerError as error:
            log.warning("Cannot say what this worker does: %s", error)

    def asked(content: Content) -> None:
        errand(partial(answer, content.body.decode()))

    channel = await connection.channel()
    channel.on_content = asked
    for method in (*topology.declare_channels(), *topology.declare_roll()):
        await channel.call(method)
    made = await channel.call(commands.Queue.Declare(exclusive=True))
    await channel.call(commands.Queue.Bind(queue=made.queue, exchange=topology.channels, routing_key=CHANNEL))
    await channel.call(commands.Basic.Consume(queue=made.queue, no_ack=True))
    await channel.call(commands.Basic.Consume(queue=topology.roll, no_ack=True))


async def call_roll(server: Server, present: int, broadcast: Broadcast) -> list[Presence]:
    """Return the answers of so many workers; of fewer, where one does not answer in time."""
    if not present:
        return []
    listener = Listener(server, f"{CHANNEL}.{new_id()}")
    await listener.open()
    found: list[Presence] = []
    answers = listener.listening()
    try:
        await broadcast(CHANNEL, [listener.channel.encode()])
        deadline = time.monotonic() + ANSWER_SECONDS
        while len(found) < present:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                found.append(msgspec.msgpack.decode(await anext(answers), type=Presence))
    except TimeoutError:
        pass  # suspended, or on its way out: its lease will end
    finally:
        await answers.aclose()
    return found
