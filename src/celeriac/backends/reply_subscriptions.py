"""Outcomes as messages, which the event loop of a shared thread receives: `rpc://`.

A calling process subscribes to an address of its own, which is named in its messages. When the connection is lost, it
subscribes again, to the same address. `backends/amqp.py`, `amqp10.py` and `stomp.py` say how.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from celeriac.backends.replies import ReplyingBackend
from celeriac.drivers.message_server import MessageServer
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from celeriac.model.pauses import Pauses

__all__ = ["SubscribingBackend"]

HEARTBEAT = 30.0  # seconds

Server = TypeVar("Server", bound=MessageServer[Any])
Connection = TypeVar("Connection", bound=Any)


class _Message(Protocol):
    """A message, as the protocol has it."""

    @property
    def body(self) -> bytes:
        """An outcome."""


Message = TypeVar("Message", bound=_Message)


class SubscribingBackend(ReplyingBackend, Generic[Server, Connection]):
    """Outcomes that were sent to the address of this process."""

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.server = server
        super().__init__(server.codec, clock, result_expires, f"{server.prefix}.reply.")

    def begin(self) -> None:
        super().begin()
        self._address = f"{self._replies}{new_id()}"
        self._reading: concurrent.futures.Future[None] | None = None
        self._beginning = threading.Lock()  # not `_lock`: what arrives meanwhile is heard

    @abstractmethod
    async def subscribe(self, connection: Connection, address: str) -> None:
        """Subscribe to an address; return when the server has confirmed it."""

    fresh_seconds: float | None = None
    """After how many seconds to call `renew`; None: never."""

    async def renew(self, connection: Connection, address: str) -> None:
        """Subscribe again, on the same connection, in place of the subscription there was."""

    @abstractmethod
    def packed(self, outcomes: Sequence[Outcome]) -> list[Any]:
        """Return what the protocol sends of outcomes. Called when the server is known."""

    async def send(self, outcomes: Sequence[Outcome]) -> None:
        def sending() -> Generator[Any, Any, None]:
            yield self.packed(outcomes)  # what reaches no address has no caller that waits for it

        await self.server.ado(sending)

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
                thread = self.server.thread()
                connection = thread.run(self._subscribed())
                self._reading = thread.submit(self._read(connection))

    async def _subscribed(self) -> Connection:
        address = self._address
        connection: Connection = await self.server.begun(
            HEARTBEAT, "celeriac replies", lambda opened: self.subscribe(opened, address)
        )
        return connection

    async def _read(self, connection: Connection) -> None:
        """Subscribe again whenever the connection is lost, until cancelled."""
        pauses = Pauses()
        try:
            while True:
                ended = asyncio.Event()
                connection.on_lost = ended.set
                while connection.lost is None:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self.fresh_seconds):
                            await ended.wait()
                            break
                    with suppress(BrokerError, OSError):  # if the connection is lost, it is said
                        await self.renew(connection, self._address)
                await asyncio.sleep(pauses.next())
                with suppress(BrokerError):
                    connection = await self._subscribed()
        finally:
            connection.close()

    def rest(self) -> None:
        """Receive nothing until the next call of `listen`."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()

    def close(self) -> None:
        self.rest()
        self.server.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.server.address}>"
