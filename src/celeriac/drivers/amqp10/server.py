"""One AMQP 1.0 server.

Procedures yield nodes (to be attached to), lists of items (to be sent) and `Passive` questions.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from celeriac.drivers.amqp10.address import Address
from celeriac.drivers.amqp10.connection import Connection
from celeriac.drivers.amqp10.dialect import RABBITMQ, Dialect, dialect_of
from celeriac.drivers.amqp10.error_translation import misconfigured
from celeriac.drivers.amqp10.links import Node
from celeriac.drivers.message_server import MessageServer
from celeriac.errors import BrokerUnavailable
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["Passive", "Server"]

Result = TypeVar("Result")


class Passive(NamedTuple):
    """Asks whether a node exists, by attaching to it."""

    node: Node


class Server(MessageServer[Connection]):
    """An AMQP 1.0 server (one host, or several that stand in for each other), and the prefix of our own names on it."""

    address: Address
    dialect: Dialect  # known when the first connection is open

    def __init__(self, url: str, prefix: str = "celeriac", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> None:
        super().__init__(Address.of(url), prefix, timeout, codec)
        self._vhost = self.address.vhost

    def unavailable(self, error: BaseException, timeout: float, blocked: str = "") -> BrokerUnavailable:
        return misconfigured(error, self.address) or super().unavailable(error, timeout, blocked)

    async def answer(self, connection: Connection, ask: Any) -> Any:
        if isinstance(ask, list):
            return await connection.send(ask)
        return await (connection.exists(ask.node) if isinstance(ask, Passive) else connection.sender(ask))

    async def connect_loop(self, heartbeat: float, name: str) -> Connection:
        made = await Connection.connect(self.address, self.hosts, self.timeout, name, heartbeat, self._vhost)
        if not self.known:
            dialect = dialect_of(made.engine.properties, made.engine.capabilities)
            wanted = self.address.vhost
            if dialect.kind == RABBITMQ and wanted and not wanted.startswith("vhost:"):
                self._vhost = f"vhost:{wanted}"  # it takes every other name for its default
                made.close()
                made = await Connection.connect(self.address, self.hosts, self.timeout, name, heartbeat, self._vhost)
            self.dialect, self.product, self.known = dialect, f"{dialect.product} (AMQP 1.0)", True
        return made
