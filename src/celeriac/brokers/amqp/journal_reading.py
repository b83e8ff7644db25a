"""Reads the journal: all that is in a queue, as its only reader, which puts back what it keeps.

A classic queue is read by an exclusive consumer: other readers are refused, and try again. A quorum queue (and every
one of Qpid Broker-J) passes its messages to one consumer at a time, up to a mark (`marked_reading.py`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from pamqp import commands

from celeriac.brokers.amqp.topology import AmqpTopology
from celeriac.brokers.queue_server.marked_reading import MarkedReading
from celeriac.brokers.queue_server.transport import Keep
from celeriac.drivers.amqp.aio import AioConnection, Channel
from celeriac.drivers.amqp.error_translation import ChannelClosed, RightsMissing
from celeriac.drivers.amqp.frames import Content, Publication, acknowledge, properties, publish
from celeriac.drivers.server_errors import ConnectionLost

__all__ = ["read_journal"]

IN_USE = 403  # the code of a queue that has an exclusive consumer
PAUSE = (0.005, 0.03)  # seconds before the journal is tried again, while another process reads it
MOMENT = 0.001  # seconds, in which the server pushes some more


async def read_journal(connection: AioConnection, topology: AmqpTopology, channel: str, keep: Keep) -> None:
    """Pass all entries to `keep`, oldest first, and remove those of which it says False."""
    declaring = await connection.channel()
    for declaration in topology.declare_journal(channel):
        await declaring.call(declaration)
    declaring.close()
    if topology.has_turns:
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
    kept = keep([content.body for content in found])
    await _remove(channel, [content for content, holds in zip(found, kept, strict=True) if not holds])


async def _read_in_turn(channel: Channel, journal: str, keep: Keep) -> None:
    """Take everything up to a mark; acknowledge what is obsolete, and return the rest by closing."""
    reading = MarkedReading[Content]()
    channel.on_content = reading.take
    channel.on_failure = reading.fail
    channel.on_cancel = lambda _: reading.fail(ConnectionLost("the queue of the journal was deleted"))
    await channel.call(commands.Basic.Consume(queue=journal))
    channel.tell(publish(channel.number, Publication("", journal, properties(), reading.mark),
                         channel.connection.facts.frame_max))  # fmt: skip
    obsolete = await reading.obsolete(keep)
    channel.on_failure = None
    await _remove(channel, obsolete)


async def _remove(channel: Channel, obsolete: Sequence[Content]) -> None:
    """Acknowledge messages, and let the server put back all others."""
    for content in obsolete:
        channel.tell(acknowledge(channel.number, content.tag, multiple=False))
    await channel.call(commands.Channel.Close(200, "", 0, 0))
