"""Reads the journal: all that is in a queue, in turn with other readers; what is kept goes back.

The server passes all messages of the queue to one subscriber, and to the next one when that has ended. A reader also
sends a mark, which comes after all that it has to read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from celeriac.brokers.stomp.topology import StompTopology
from celeriac.drivers.stomp.error_translation import ConnectionLost
from celeriac.drivers.stomp.frames import Frame, Publication, headers
from celeriac.drivers.stomp.server import Server
from celeriac.model.message import new_id

__all__ = ["Keep", "read_journal"]

MARK = b"mark "
MARK_SECONDS = 3600  # after which the reader that has sent a mark is surely gone
MOST = "100000"  # entries

Keep = Callable[[list[bytes]], list[bool]]


async def read_journal(server: Server, topology: StompTopology, keep: Keep) -> None:
    """Pass all entries to `keep`, oldest first, and remove those of which it says False."""
    dialect = topology.dialect
    now = int(time.time())
    mark = MARK + f"{now + MARK_SECONDS} {new_id()}".encode()
    found: list[Frame] = []
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(frame: Frame) -> None:
        found.append(frame)
        if frame.body == mark and not ended.done():
            ended.set_result(None)

    def lost() -> None:
        if not ended.done():
            ended.set_exception(ConnectionLost(str(connection.lost)))
            ended.exception()  # retrieved, for another request may have failed first

    connection = await server.open(60.0)
    connection.on_lost = lost
    try:
        more = {dialect.window: MOST, **dialect.in_turn, **dialect.of_journal}
        connection.subscribe(take, topology.journal, more=more)
        await connection.publish([Publication(topology.journal, headers({"persistent": "true", **dialect.of_journal}),
                                              mark)])  # fmt: skip
        await ended
        entries = [frame for frame in found if not frame.body.startswith(MARK)]
        kept = dict(zip(map(id, entries), keep([frame.body for frame in entries]), strict=True))
        obsolete = [
            frame.headers.get("ack", "") for frame in found
            if not (kept[id(frame)] if id(frame) in kept else frame.body != mark and _is_waited_for(frame.body, now))
        ]  # fmt: skip
        connection.acknowledge(obsolete)
        connection.on_lost = None
        await connection.confirmed("DISCONNECT")
    finally:
        connection.close()


def _is_waited_for(mark: bytes, now: int) -> bool:
    """Say whether another reader may wait for its mark."""
    until = mark.removeprefix(MARK).partition(b" ")[0]
    return len(until) < 20 and until.isdigit() and now < int(until) <= now + 2 * MARK_SECONDS
