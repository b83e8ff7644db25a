"""Reads the journal: all that is in a queue, as its only reader, which puts back what it keeps.

A classic queue is read by an exclusive consumer: other readers are refused, and try again. A quorum queue passes its
messages to one consumer at a time; other readers wait until it is their turn. A reader of a quorum queue also sends a
mark, which comes after all that it has to read.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from pamqp import commands

from celeriac.brokers.amqp.topology import AmqpTopology
from celeriac.drivers.amqp.aio import AioConnection, Channel
from celeriac.drivers.amqp.error_translation import ChannelClosed, ConnectionLost, RightsMissing
from celeriac.drivers.amqp.frames import Content, Publication, acknowledge, properties, publish
from celeriac.model.message import new_id

__all__ = ["Keep", "read_journal"]

IN_USE = 403  # the code of a queue that has an exclusive consumer
PAUSE = (0.005, 0.03)  # seconds before the journal is tried again, while another process reads it
MOMENT = 0.001  # seconds, in which the server pushes some more
MARK = b"mark "
MARK_SECONDS = 3600  # after which the reader that has sent a mark is surely gone

Keep = Callable[[list[bytes]], list[bool]]


async def read_journal(connection: AioConnection, topology: AmqpTopology, channel: str, keep: Keep) -> None:
    """Pass all entries to `keep`, oldest first, and remove those of which it says False."""
    declaring = await connection.channel()
    for declaration in topology.declare_journal(channel):
        await declaring.call(declaration)
    declaring.close()
    if topology.quorum:
        await _read_in_turn(await connection.channel(), topology.journal, keep)
        return
    while True:
        try:
            await _read_alone(await connection.channel(), topology.journal, keep)
            return
        except ChannelClosed as error:
            if error.code != IN_USE or isinstance(error, RightsMissing):
                raise
        await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311 - another process is reading


async def _read_alone(channel: Channel, journal: str, keep: Keep) -> None:
    """Take everything, as the exclusive consumer; acknowledge what is obsolete, and return the rest by closing."""
    found: list[Content] = []
    channel.on_content = found.append
    await channel.call(commands.Basic.Consume(queue=journal, exclusive=True))
    while (await channel.call(commands.Queue.Declare(queue=journal, passive=True))).message_count:
        await asyncio.sleep(MOMENT)
    await channel.call(commands.Basic.Qos(prefetch_count=0))  # answered after all that has been pushed
    await _put_back(channel, found, keep([content.body for content in found]))


async def _read_in_turn(channel: Channel, journal: str, keep: Keep) -> None:
    """Take everything up to a mark of our own; acknowledge that and what is obsolete, and return the rest.

    What follows the mark, its follower is sent as well.
    """
    now = int(time.time())
    mark = MARK + f"{now + MARK_SECONDS} {new_id()}".encode()
    found: list[Content] = []
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(content: Content) -> None:
        found.append(content)
        if content.body == mark and not ended.done():
            ended.set_result(None)

    def fail(error: Exception) -> None:
        if not ended.done():
            ended.set_exception(error)
            ended.exception()  # retrieved, for the reader may fail elsewhere first

    channel.on_content = take
    channel.on_failure = fail
    channel.on_cancel = lambda _: fail(ConnectionLost("the queue of the journal was deleted"))
    await channel.call(commands.Basic.Consume(queue=journal))
    channel.tell(publish(channel.number, Publication("", journal, properties(), mark),
                         channel.connection.facts.frame_max))  # fmt: skip
    await ended
    entries = [content for content in found if not content.body.startswith(MARK)]
    kept = dict(zip((content.tag for content in entries), keep([content.body for content in entries]), strict=True))
    channel.on_failure = None
    await _put_back(channel, found, [
        kept[content.tag] if content.tag in kept else content.body != mark and _is_waited_for(content.body, now)
        for content in found
    ])  # fmt: skip


def _is_waited_for(mark: bytes, now: int) -> bool:
    """Say whether another reader may wait for its mark."""
    until = mark.removeprefix(MARK).partition(b" ")[0]
    return len(until) < 20 and until.isdigit() and now < int(until) <= now + 2 * MARK_SECONDS


async def _put_back(channel: Channel, found: list[Content], kept: list[bool]) -> None:
    for content, holds in zip(found, kept, strict=True):
        if not holds:
            channel.tell(acknowledge(channel.number, content.tag, multiple=False))
    await channel.call(commands.Channel.Close(200, "", 0, 0))
