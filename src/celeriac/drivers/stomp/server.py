"""One STOMP server. Procedures yield lists of publications, which are sent and confirmed, and `Browse`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeVar

from celeriac.drivers.blocking_server import BlockingServer
from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.aio import AioConnection
from celeriac.drivers.stomp.blocking import Connection
from celeriac.drivers.stomp.frames import Publication
from celeriac.drivers.stomp.opening import Browse, Facts
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["Batch", "Server"]

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

    def answer_blocking(self, connection: Connection, ask: Any, deadline: float) -> Any:
        left = max(0.01, deadline - time.monotonic())
        return connection.browse(ask, left) if isinstance(ask, Browse) else connection.publish(ask, left)

    async def answer(self, connection: AioConnection, ask: Any, acknowledged: Sequence[str] = ()) -> Any:
        """Send a request; with a `Batch`, acknowledge messages in the same step."""
        if isinstance(ask, Browse):
            return await connection.browse(ask)
        return await connection.publish(ask, acknowledged if isinstance(ask, Batch) else ())

    async def connect_loop(self, heartbeat: float, name: str) -> AioConnection:
        connection = await AioConnection.connect(self.address, self.timeout, heartbeat, self.hosts)
        self._know(connection.facts)
        return connection

    def _know(self, facts: Facts) -> None:
        self.facts, self.product, self.known = facts, facts.dialect.product, True
