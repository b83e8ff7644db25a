"""Outcomes as messages of AMQP 1.0, each sent to its caller: `rpc://`, on the broker's server.

A calling process subscribes to a topic of its own, which is named in its messages. So the address stays the same when
the connection is lost and opened again, and the server forgets it with the connection; what is sent while nobody
subscribes is lost.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Generator, Sequence
from typing import Any

from celeriac.backends.replies import ReplyingBackend
from celeriac.drivers.amqp10.connection import Connection, Item
from celeriac.drivers.amqp10.error_translation import Refused
from celeriac.drivers.amqp10.messages import encode
from celeriac.drivers.amqp10.server import Server, server
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome

__all__ = ["Amqp10RpcBackend", "connect"]

IDLE = 30.0  # seconds
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between attempts to subscribe again


class Amqp10RpcBackend(ReplyingBackend):
    """Outcomes that were sent to the topic of this process."""

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.server = server
        super().__init__(server.codec, clock, result_expires, f"{server.prefix}.reply.")

    def begin(self) -> None:
        super().begin()
        self._address = f"{self._replies}{new_id()}"
        self._reading: concurrent.futures.Future[None] | None = None

    @property
    def reply_to(self) -> str:
        """The topic of this process, subscribed to on first use. Raises `BrokerUnavailable`."""
        if not self.listening:
            self.listen()
        return self._address

    @property
    def listening(self) -> bool:
        return self._reading is not None

    def listen(self) -> None:
        with self._lock:
            if self._reading is None:
                thread = self.server.thread()
                connection = thread.run(self._subscribed())
                self._reading = thread.submit(self._read(connection))

    async def _subscribed(self) -> Connection:
        connection = await self.server.open(IDLE, "celeriac replies")
        try:
            async with self.server.answering():
                receiver = await connection.follow(self.server.dialect.subscription(self._address), self._heard)
        except BaseException:
            connection.close()
            raise
        receiver.changed = connection.abandon  # the server has ended the link
        return connection

    async def _read(self, connection: Connection) -> None:
        """Subscribe again whenever the connection is lost, until cancelled."""
        tries = 0
        try:
            while True:
                with contextlib.suppress(OSError):
                    await connection.until(lambda: False)
                await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1
                with contextlib.suppress(BrokerError):
                    connection = await self._subscribed()
                    tries = 0
        finally:
            connection.close()

    def _heard(self, body: bytes) -> None:
        outcome = self.decoded(body)
        if outcome is not None:
            self.hear([outcome])

    async def send(self, outcomes: Sequence[Outcome]) -> None:
        await self.server.ado(lambda: self._sending(outcomes))

    def _sending(self, outcomes: Sequence[Outcome]) -> Generator[Any, Any, None]:
        items: list[Item] = []
        for outcome in outcomes:
            node, subject = self.server.dialect.topic(outcome.reply_to)
            items.append(Item(node, encode(self.codec.encode_outcome(outcome), subject=subject)))
        yield items

    def too_large(self, error: BrokerError) -> bool:
        return isinstance(error, Refused) and error.too_large

    def close(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
        self.server.close()

    def __repr__(self) -> str:
        return f"<Amqp10RpcBackend {self.server.address}>"


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> Amqp10RpcBackend:  # fmt: skip
    """Return the backend for an `amqp10://` URL: `connections.py` replaces `rpc://` by the broker's URL."""
    return Amqp10RpcBackend(server(url, prefix, timeout, codec), clock, result_expires)
