"""Takes what is in a queue, as far as a server lets that be known: by draining, or by counting first.

Also what a worker holds: `Delivered`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from celeriac.drivers.amqp10.connection import Connection
from celeriac.drivers.amqp10.dialect import Dialect
from celeriac.drivers.amqp10.links import ACCEPTED, RELEASED, Node, Receiver, Session
from celeriac.drivers.amqp10.messages import Received

__all__ = ["Counting", "Delivered", "put_back", "returned", "taken"]

PART = 1000  # messages that are taken at a time
TAKING_SECONDS = 1.0  # for messages to arrive that were counted: others may have taken them
MOST_COUNTED = 10_000  # where counting is looking


class Delivered:
    """A message that the server has sent, and that is not settled."""

    __slots__ = ("body", "consumer_tag", "delivery", "failures", "receiver", "redelivered", "tag")

    def __init__(self, tag: int, consumer_tag: str, receiver: Receiver, delivery: Any, received: Received) -> None:
        self.tag = tag
        self.consumer_tag = consumer_tag
        self.receiver = receiver
        self.delivery = delivery
        self.body, first, self.failures = received
        self.redelivered = not first or self.failures > 0

    def settle(self, state: int) -> None:
        """Tell the server the outcome."""
        self.receiver.settle(self.delivery, state)


async def taken(connection: Connection, dialect: Dialect, receiver: Receiver, most: int) -> list[Delivered]:
    """Take up to so many messages from a queue: those that are in it now."""
    found: list[Delivered] = []

    def take(delivery: Any, received: Received) -> None:
        found.append(Delivered(len(found) + 1, "", receiver, delivery, received))

    receiver.take = take
    while (left := most - len(found)) > 0:
        before = len(found)
        if dialect.drains:
            await connection.drained(receiver, min(left, PART))
        else:
            [waiting] = await connection.told([receiver])
            if not (expected := min(left, PART, waiting)):
                break
            receiver.allow(expected)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TAKING_SECONDS):
                    await connection.until(lambda goal=before + expected: len(found) >= goal or receiver.error)  # type: ignore[misc]
            receiver.allow(0)
            if receiver.error is not None:
                raise receiver.error
        if len(found) == before:
            break
    return found


def put_back(messages: Sequence[Delivered]) -> None:
    """Give messages back to their queue, to their old places, as if they had not been taken."""
    for message in messages:
        message.settle(RELEASED)


class Counting:
    """Counts the messages that wait in queues, on links without credit; or by looking at them."""

    def __init__(self, connection: Connection, dialect: Dialect) -> None:
        self._connection = connection
        self._dialect = dialect
        self._session: Session | None = None
        self._receivers: dict[Node, Receiver] = {}

    async def of(self, nodes: Sequence[Node], most: int = MOST_COUNTED) -> list[int]:
        """Return how many messages wait in each. Raises `Refused` or `ConnectionLost`."""
        if not self._dialect.tells:
            return [await self._looked(node, most) for node in nodes]
        if self._session is None or self._session.error is not None:
            self._session, self._receivers = self._connection.session(), {}
        fresh = [node for node in nodes if node not in self._receivers]
        for node in fresh:
            self._receivers[node] = self._session.receiver(node)
        receivers = [self._receivers[node] for node in nodes]
        for receiver in receivers:
            await self._connection.attached(receiver)
        return await self._connection.told(receivers)

    async def _looked(self, node: Node, most: int) -> int:
        session = self._connection.session()
        try:
            receiver = await self._connection.attached(session.receiver(node._replace(copy=True)))
            found = await taken(self._connection, self._dialect, receiver, most)
            for message in found:
                message.settle(ACCEPTED)
            return len(found)
        finally:
            session.close()
            self._connection.soon()


async def returned(connection: Connection, counting: Counting, node: Node, count: int, seconds: float) -> None:
    """Wait until so many messages are in a queue again, which were given back; somebody may take them first."""
    deadline = time.monotonic() + seconds
    while count and sum(await counting.of([node], count)) < count and time.monotonic() < deadline:
        await asyncio.sleep(0.001)
