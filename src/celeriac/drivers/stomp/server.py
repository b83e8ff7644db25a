"""One STOMP server. Procedures yield lists of publications, which are sent and confirmed, and `Browse`."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from celeriac.drivers.blocking_server import BlockingServer
from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.aio import AioConnection
from celeriac.drivers.stomp.blocking import Connection
from celeriac.drivers.stomp.frames import Frame, Publication
from celeriac.drivers.stomp.opening import Browse, Facts
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["Batch", "Server", "adrive"]

Result = TypeVar("Result")


class Batch(list[Publication]):
    """Publications that are sent in one step with the acknowledgements of who sends them."""


class Server(BlockingServer[AioConnection, Connection]):
    """A STOMP server (one host, or several nodes), and the prefix of Celeriac's own names on it."""

    address: Address
    facts: Facts  # known when the first connection is open

    def __init__(self, url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> None:
        super().__init__(Address.of(url), prefix, timeout, codec)

    def connect_blocking(self, within: float) -> Connection:
        connection = Connection(self.address, within, self.hosts)
        self._know(connection.facts)
        return connection

    def drive_blocking(self, connection: Connection, work: Generator[Any, Any, Result], deadline: float) -> Result:
        answer: list[Frame] | None = None
        try:
            while True:
                ask = work.send(answer)
                left = max(0.01, deadline - time.monotonic())
                if isinstance(ask, Browse):
                    answer = connection.browse(ask, left)
                else:
                    answer = None
                    connection.publish(ask, left)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def drive(self, connection: AioConnection, work: Generator[Any, Any, Result]) -> Result:
        return await adrive(connection, work)

    async def connect_loop(self, heartbeat: float, name: str) -> AioConnection:
        connection = await AioConnection.connect(self.address, self.timeout, heartbeat, self.hosts)
        self._know(connection.facts)
        return connection

    def _know(self, facts: Facts) -> None:
        self.facts, self.product, self.known = facts, facts.dialect.product, True


async def adrive(connection: AioConnection, work: Generator[Any, Any, Result],
                 acknowledged: Sequence[str] = ()) -> Result:  # fmt: skip
    """Carry out a procedure on a connection, and acknowledge messages in the step that sends a `Batch`."""
    answer: list[Frame] | None = None
    try:
        while True:
            ask = work.send(answer)
            if isinstance(ask, Browse):
                answer = await connection.browse(ask)
            else:
                answer = None
                await connection.publish(ask, acknowledged if isinstance(ask, Batch) else ())
    except StopIteration as end:
        result: Result = end.value
        return result
