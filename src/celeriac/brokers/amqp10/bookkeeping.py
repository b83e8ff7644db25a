"""What the server keeps for all workers: the journal, and which workers are connected.

Both are queues from which a reader takes everything and puts back what stays. So that nobody reads while another one
has taken a part, a reader first takes the *turn*: the one message of a queue of its own, which the server gives back
when its holder's connection ends.

    celeriac.turn          the turn
    celeriac.journal       the entries
    celeriac.workers       a message for each worker, with its name
    celeriac.workers.left  another one for each, which the worker itself has taken: here are those of dead workers
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from celeriac.brokers.amqp10.taking import Delivered, put_back, taken
from celeriac.brokers.amqp10.topology import Amqp10Topology
from celeriac.brokers.queue_server.transport import Keep
from celeriac.drivers.amqp10.connection import Connection, Item
from celeriac.drivers.amqp10.links import ACCEPTED, RELEASED, Node, Receiver, Session
from celeriac.drivers.amqp10.messages import Received, encode

__all__ = ["DOUBLED", "Bookkeeping"]

MOST = 100_000  # entries
TURN_SECONDS = 3.0  # without the turn, after which it is made anew: its first maker has died
DOUBLED = "turn"  # the channel that says: two had the turn, read again


class Bookkeeping:
    """Reads and writes what is kept, on one connection."""

    def __init__(self, connection: Connection, topology: Amqp10Topology) -> None:
        self._connection = connection
        self._topology = topology
        self._dialect = topology.dialect

    # --- The turn -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[Session, None]:
        """Lend the turn, and a session to take messages in: it ends with the block, and gives them back."""
        connection, node = self._connection, self._topology.queue(self._topology.turn)
        existing = self._dialect.existing(self._topology.turn)
        if existing is not None and not await connection.exists(existing):
            await connection.send([Item(node, encode(b"turn"))])
        session = connection.session()
        try:
            receiver: Receiver = await connection.attached(session.receiver(node))
            mine: list[Delivered] = []
            receiver.take = lambda delivery, received: mine.append(Delivered(0, "", receiver, delivery, received))
            receiver.allow(2)  # there should be one
            while not mine:
                with suppress(TimeoutError):
                    async with asyncio.timeout(TURN_SECONDS):
                        await connection.until(lambda: mine or receiver.error)
                if receiver.error is not None:
                    raise receiver.error
                if not mine:
                    await connection.send([Item(node, encode(b"turn"))])
            yield session
            receiver.allow(0)
            for double in mine[1:]:
                double.settle(ACCEPTED)
            mine[0].settle(RELEASED)
            connection.flush()
            if len(mine) > 1:  # two have read at the same time, and each has missed what the other one had taken
                target, subject = self._dialect.topic(self._topology.channel(DOUBLED))
                await connection.send([Item(target, encode(b"", subject=subject))])
        finally:
            session.close()
            connection.soon()

    async def _all(self, session: Session, address: str) -> list[Delivered]:
        """Take all messages of a queue."""
        receiver = await self._connection.attached(session.receiver(self._topology.queue(address)))
        return await taken(self._connection, self._dialect, receiver, MOST)

    # --- The journal ----------------------------------------------------------------------------------

    async def read_journal(self, keep: Keep) -> None:
        """Pass all entries to `keep`, oldest first, and remove those of which it says False."""
        async with self._turn() as session:
            entries = await self._all(session, self._topology.journal)
            _sort(entries, keep([entry.body for entry in entries]))

    # --- Workers --------------------------------------------------------------------------------------

    async def enter(self, name: bytes, session: Session) -> None:
        """Be counted while a session lasts. Whoever enters removes those that have died."""
        left = self._topology.queue(self._topology.left)
        async with self._turn() as turn:
            dead = await self._all(turn, self._topology.left)
            names = {one.body for one in dead}
            present = await self._all(turn, self._topology.workers)
            _sort(present, [one.body not in names for one in present])
            _sort(dead, [False] * len(dead))
            await self._connection.send([Item(left, encode(name))])
            await self._hold(session, left, name)
            await self._connection.send([Item(self._topology.queue(self._topology.workers), encode(name))])

    async def _hold(self, session: Session, node: Node, name: bytes) -> None:
        receiver: Receiver = await self._connection.attached(session.receiver(node))
        mine: list[Delivered] = []
        others: list[Delivered] = []

        def take(delivery: Any, received: Received) -> None:
            one = Delivered(0, "", receiver, delivery, received)
            (mine if one.body == name else others).append(one)
            receiver.allow(0 if mine else 1)

        receiver.take = take
        receiver.allow(1)
        await self._connection.until(lambda: mine or receiver.error)
        put_back(others)  # of workers that have died meanwhile

    async def leave(self, name: bytes) -> None:
        """Be counted no more."""
        async with self._turn() as turn:
            present = await self._all(turn, self._topology.workers)
            _sort(present, [one.body != name for one in present])

    async def workers(self) -> int:
        """Return how many workers are connected."""
        async with self._turn() as turn:
            dead = await self._all(turn, self._topology.left)
            present = await self._all(turn, self._topology.workers)
            put_back([*dead, *present])
            return len({one.body for one in present} - {one.body for one in dead})


def _sort(messages: Sequence[Delivered], kept: Sequence[bool]) -> None:
    """Remove messages, or put them back."""
    put_back([message for message, holds in zip(messages, kept, strict=True) if holds])
    for message, holds in zip(messages, kept, strict=True):
        if not holds:
            message.settle(ACCEPTED)
