"""A message server whose driver has blocking connections, which threads borrow: AMQP 0-9-1, STOMP."""

from __future__ import annotations

import time
from abc import abstractmethod
from functools import partial
from typing import Any, Generic, TypeVar

from celeriac.drivers.blocking_connection import BlockingConnection
from celeriac.drivers.message_server import PAUSE, TRIES, LoopConnected, MessageServer
from celeriac.drivers.procedures import Procedure, drive
from celeriac.drivers.server_address import ServerAddress
from celeriac.drivers.server_errors import ConnectionLost
from celeriac.errors import BrokerError, BrokerUnavailable
from celeriac.model.codec import Codec

__all__ = ["LONG_PAUSE", "BlockingServer"]

LONG_PAUSE = 0.2  # seconds before a request is tried again that the server refuses only for now
IDLE_CONNECTIONS = 64  # kept for the next callers

Blocking = TypeVar("Blocking", bound=BlockingConnection)
Result = TypeVar("Result")


class BlockingServer(MessageServer[LoopConnected], Generic[LoopConnected, Blocking]):
    """A server, and its idle connections."""

    def __init__(self, address: ServerAddress, prefix: str, timeout: float, codec: Codec) -> None:
        super().__init__(address, prefix, timeout, codec)
        self._idle: list[Blocking] = []

    @abstractmethod
    def connect_blocking(self, within: float) -> Blocking:
        """Return a new connection. Raises `OSError`, `BrokerUnavailable`."""

    @abstractmethod
    def answer_blocking(self, connection: Blocking, ask: Any, deadline: float) -> Any:
        """Blocking version of `answer`."""

    def usable_after(self, error: BaseException) -> bool:
        """Say whether a connection can be used after an error."""
        return False

    def passes(self, error: BrokerError) -> bool:
        """Say whether the server refuses a request only for now."""
        return False

    def do(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        timeout = self.timeout if within is None else within
        deadline = time.monotonic() + timeout
        tries = TRIES
        while True:
            tries -= 1
            connection: Blocking | None = None
            try:
                connection = self._borrow(deadline)
                result = drive(procedure(), partial(self.answer_blocking, connection, deadline=deadline))
            except OSError as error:
                if connection is not None:
                    connection.give_up()
                    if not connection.blocked:
                        self._close_idle()  # the server may not answer on these either
                hung_up = isinstance(error, ConnectionLost | ConnectionResetError)  # also on who logs in
                if (connection is None and not hung_up) or not tries or isinstance(error, TimeoutError | BrokerError):
                    raise self.unavailable(error, timeout, connection.blocked if connection else "") from error
                time.sleep(PAUSE)
            except BaseException as error:  # also a time limit's exception, between a request and its answer
                if connection is not None:
                    if self.usable_after(error):
                        self._give(connection)
                    else:
                        connection.abandon()
                if not isinstance(error, BrokerError) or not self.passes(error):
                    raise
                if time.monotonic() + LONG_PAUSE > deadline:
                    raise BrokerUnavailable(str(error)) from error
                tries = TRIES
                time.sleep(LONG_PAUSE)
            else:
                self._give(connection)
                return result

    def _borrow(self, deadline: float) -> Blocking:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.stale():
                return connection
        return self.connect_blocking(deadline - time.monotonic())

    def _give(self, connection: Blocking) -> None:
        if len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        self._close_idle()
        super().close()

    def forget(self) -> None:
        for connection in self._idle:
            connection.abandon()  # this process's copy of the socket
        self._idle = []
        super().forget()
