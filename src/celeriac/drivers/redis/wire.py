"""An asyncio connection. Any number of coroutines may send on it at once; replies arrive in order.

If a coroutine is cancelled, its replies are discarded when they arrive; other coroutines are not affected.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import hiredis

from celeriac.drivers.redis.address import Address
from celeriac.drivers.redis.error_translation import NotRedis
from celeriac.drivers.sockets import prepare

__all__ = ["Wire"]


class _Request:
    __slots__ = ("count", "future", "replies", "sent_at")

    def __init__(self, future: asyncio.Future[list[Any]], count: int, sent_at: float) -> None:
        self.future = future
        self.count = count
        self.replies: list[Any] = []
        self.sent_at = sent_at


class Wire(asyncio.Protocol):
    """One connection of one event loop. Any error closes it; all waiting coroutines get an `OSError`."""

    def __init__(self, timeout: float) -> None:
        self.open = False
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._requests: deque[_Request] = deque()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(cls, address: Address, timeout: float) -> tuple[Wire, list[Any]]:
        """Return a new connection, and the replies to its first commands."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            if address.path:
                _, made = await loop.create_unix_connection(lambda: cls(timeout), address.path)
            else:
                _, made = await loop.create_connection(
                    lambda: cls(timeout), address.host, address.port, ssl=address.tls_context()
                )
            try:
                commands = address.greeting()
                packed = b"".join(map(hiredis.pack_command, commands))
                return made, await made.exchange(packed, len(commands)) if commands else []
            except BaseException:
                made.close()
                raise

    async def exchange(self, packed: bytes, count: int) -> list[Any]:
        """Send commands; return as many replies."""
        return await self.send(packed, count)

    def send(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send commands now; the future gets the replies. It need not be awaited."""
        if not self.open or self._transport is None:
            raise ConnectionResetError("the server closed the connection")
        request = _Request(self._loop.create_future(), count, self._loop.time())
        self._requests.append(request)
        self._transport.write(packed)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._check_timeout)
        return request.future

    def close(self, error: Exception | None = None) -> None:
        """Close the connection; all waiting coroutines get the error."""
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        while self._requests:
            future = self._requests.popleft().future
            if not future.done():
                future.set_exception(error or ConnectionResetError("the server closed the connection"))
                future.exception()  # marks it as retrieved: its coroutine may be gone

    # --- Called by the loop ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called with the transport of the open connection."""
        self._transport = cast(asyncio.Transport, transport)
        plain = transport.get_extra_info("socket")
        if plain is not None:
            prepare(plain)
        self.open = True

    def data_received(self, data: bytes) -> None:
        """Pass replies to the coroutines that wait for them."""
        try:
            self._feed(data)
        except hiredis.ProtocolError as error:
            self.close(NotRedis(str(error)))

    def _feed(self, data: bytes) -> None:
        reader, requests = self._reader, self._requests
        reader.feed(data)
        while (reply := reader.gets()) is not False:
            if not requests:  # an error that nobody asked for: the server is closing the connection
                self.close(ConnectionResetError(str(reply)))
                return
            request = requests[0]
            request.replies.append(reply)
            if len(request.replies) == request.count:
                requests.popleft()
                if not request.future.done():
                    request.future.set_result(request.replies)

    def connection_lost(self, error: Exception | None) -> None:
        """Called when the connection is closed, by either side."""
        self.close(error)

    def _check_timeout(self) -> None:
        self._timer = None
        if self._requests:
            left = self._requests[0].sent_at + self._timeout - self._loop.time()
            if left <= 0:
                self.close(TimeoutError())
            else:
                self._timer = self._loop.call_later(left, self._check_timeout)
