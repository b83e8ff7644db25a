"""A STOMP server: what the broker sends and drains, beside a bare loop with the same frames and batches.

    python -m benchmarks.stomp stomp://localhost:61613/bench [messages]

Only the ratios count: both sides share the machine with the server.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Generator
from typing import Any

from celeriac.brokers.stomp import StompBroker
from celeriac.drivers.stomp.frames import Frame, Publication, headers
from celeriac.drivers.stomp.server import Server
from celeriac.model.clock import Clock
from celeriac.model.message import PLAIN, Message, new_ids
from celeriac.ports.broker import Settlement
from celeriac.ports.operations import WorkerInfo

WINDOW, BATCH = 256, 128
BODY = b"x" * 200


async def bare(server: Server, count: int) -> tuple[float, float]:
    """Return the messages per second that a loop without Celeriac's broker sends, and consumes."""
    await server.learn()
    dialect = server.facts.dialect
    queue, marks = dialect.queue("bare"), headers({"persistent": "true", "priority": "5", **dialect.of_lines})

    def sending() -> Generator[Any, Any, None]:
        yield [Publication(queue, marks, BODY) for _ in range(count)]

    begun = time.perf_counter()
    await server.ado(sending, 600.0)
    sent = count / (time.perf_counter() - begun)
    connection = await server.open(60.0)
    left, waiting = count, list[str]()
    ended = asyncio.Event()

    def take(frame: Frame) -> None:
        nonlocal left
        left -= 1
        waiting.append(frame.headers["ack"])
        if len(waiting) == BATCH or not left:
            connection.acknowledge(waiting)
            waiting.clear()
        if not left:
            ended.set()

    begun = time.perf_counter()
    connection.subscribe(take, queue, more={dialect.window: str(WINDOW), **dialect.of_lines})
    await ended.wait()
    await connection.confirmed("DISCONNECT")
    return sent, count / (time.perf_counter() - begun)


async def broker(server: Server, count: int) -> tuple[float, float]:
    """Return the same of the broker: sent by the thousand, received and settled in batches."""
    made = StompBroker(server, Clock())
    messages = [Message(id=id, task="t", body=BODY) for id in new_ids(count)]
    begun = time.perf_counter()
    await made.apublish(messages)
    sent = count / (time.perf_counter() - begun)
    lease = await made.lease(WorkerInfo(name="benchmark"), 60.0, 3)
    begun = time.perf_counter()
    left = count
    while left:
        found = await lease.receive(["default"], {PLAIN: WINDOW}, 10.0)
        await lease.settle([Settlement(delivery=one) for one in found])
        left -= len(found)
    drained = count / (time.perf_counter() - begun)
    await lease.end()
    return sent, drained


async def main(url: str, count: int) -> None:
    """Print both, and their ratios."""
    server = Server(url, timeout=600.0)
    for _ in range(3):
        theirs, ours = await bare(server, count), await broker(server, count)
        for what, one, other in zip(("sent", "drained"), theirs, ours, strict=True):
            print(f"{what}: bare {one:,.0f}/s, broker {other:,.0f}/s, {one / other:.2f} times as long")
    server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10_000))
