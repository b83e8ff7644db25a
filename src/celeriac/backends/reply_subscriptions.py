"""Outcomes as messages, which the event loop of a shared thread receives: `rpc://`.

A calling process subscribes to an address of its own, which is named in its messages. When the connection is lost, it
subscribes again, to the same address. `backends/amqp.py`, `amqp10.py` and `stomp.py` say how.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from celeriac.backends.replies import ReplyingBackend
from celeriac.drivers.message_server import MessageServer
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock
from celeriac.model.message import new_id

__all__ = ["SubscribingBackend"]

HEARTBEAT = 30.0  # seconds
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between attempts to subscribe again

Connection = TypeVar("Connection", bound=Any)


class _Message(Protocol):
    """A message, as the protocol has it."""

    @property
    def body(self) -> bytes:
        """An outcome."""


Message = TypeVar("Message", bound=_Message)


class SubscribingBackend(ReplyingBackend, Generic[Connection]):
    """Outcomes that were sent to the address of this process."""

    def __init__(self, server: MessageServer[Connection], clock: Clock, result_expires: float | None) -> None:
        self._server = server
        super().__init__(server.codec, clock, result_expires, f"{server.prefix}.reply.")

    def begin(self) -> None:
        super().begin()
        self._address = f"{self._replies}{new_id()}"
        self._reading: concurrent.futures.Future[None] | None = None
        self._beginning = threading.Lock()  # not `_lock`: what arrives meanwhile is heard

    @abstractmethod
    async def subscribe(self, connection: Connection, address: str) -> None:
        """Subscribe to an address; return when the server has confirmed it."""

    def hearing(self, acknowledge: Callable[[list[Message]], None]) -> Callable[[Message], None]:
        """Return what takes messages as they arrive: all that arrive together are heard, then acknowledged, at once."""
        loop, arrived = asyncio.get_running_loop(), list[Message]()

        def take(message: Message) -> None:
            if not arrived:
                loop.call_soon(hear)
            arrived.append(message)

        def hear() -> None:
            self.hear(filter(None, [self.decoded(message.body) for message in arrived]))
            acknowledge(arrived)
            arrived.clear()

        return take

    @property
    def reply_to(self) -> str:
        """The address of this process, subscribed to on first use. Raises `BrokerUnavailable`."""
        if not self.listening:
            self.listen()
        return self._address

    @property
    def listening(self) -> bool:
        return self._reading is not None

    def listen(self) -> None:
        with self._beginning:
            if self._reading is None:
                thread = self._server.thread()
                connection = thread.run(self._subscribed())
                self._reading = thread.submit(self._read(connection))

    async def _subscribed(self) -> Connection:
        connection = await self._server.open(HEARTBEAT, "celeriac replies")
        try:
            async with self._server.answering():
                await self.subscribe(connection, self._address)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _read(self, connection: Connection) -> None:
        """Subscribe again whenever the connection is lost, until cancelled."""
        tries = 0
        try:
            while True:
                ended = asyncio.Event()
                connection.on_lost = ended.set
                if connection.lost is None:
                    await ended.wait()
                await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1
                with contextlib.suppress(BrokerError):
                    connection = await self._subscribed()
                    tries = 0
        finally:
            connection.close()

    def rest(self) -> None:
        """Receive nothing until the next call of `listen`."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()

    def close(self) -> None:
        self.rest()
        self._server.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server.address}>"
