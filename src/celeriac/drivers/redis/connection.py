"""A blocking connection, which sends commands and returns replies. Opened and kept by `Server`."""

from __future__ import annotations

import os
import time
from typing import Any, cast

import hiredis

from celeriac.drivers.redis.address import Address
from celeriac.drivers.redis.error_translation import NotRedis
from celeriac.drivers.sockets import TimedSocket

__all__ = ["CHUNK", "Connection", "resolve"]

CHUNK = 65536
SPIN_SECONDS = 100e-6  # a reply is polled for so long before the thread sleeps
MOST_SKIPPED = 1023  # after polling in vain, it is skipped for at most so many replies
SENTINEL_SECONDS = 1.0  # the time-out for one Sentinel

_waiting: list[None] = []  # one item for each thread of this process that waits for a reply
os.register_at_fork(after_in_child=_waiting.clear)


class Connection:
    """One socket. It is unusable after any error: close it.

    Raises only `OSError` (`TimeoutError` among them); error replies are returned as they are.
    """

    def __init__(self, address: Address, timeout: float, deadline: float) -> None:
        """Connect until the deadline (monotonic), also for `check`; no exchange takes longer than `timeout` seconds."""
        self.address = address
        self.reader = hiredis.Reader()
        self.socket = TimedSocket(address.connect(_left(deadline)))
        self._timeout = timeout
        self._opens_until = deadline
        self._skip = 0  # for how many replies polling is skipped; doubles each time that polling was in vain
        self._skips_left = 0
        try:
            self.greetings = self._greet(address)
        except BaseException:
            self.close()
            raise

    def _greet(self, address: Address) -> list[Any]:
        commands = address.greeting()
        return self.check(*map(hiredis.pack_command, commands)) if commands else []

    def check(self, *packed: bytes) -> list[Any]:
        """Exchange commands of the opening: all of it ends at one deadline."""
        timeout, self._timeout = self._timeout, _left(self._opens_until)
        replies = self.exchange(b"".join(packed), len(packed))
        self._timeout = timeout
        return replies

    def exchange(self, packed: bytes, count: int) -> list[Any]:
        """Send commands; return as many replies."""
        deadline = time.monotonic() + self._timeout
        self.socket.write(packed, deadline)
        reader, replies = self.reader, []
        try:
            while True:
                reply = reader.gets()
                if reply is False:
                    reader.feed(self._read(deadline))
                    continue
                replies.append(reply)
                if len(replies) == count:
                    return replies
        except hiredis.ProtocolError as error:
            raise NotRedis(str(error)) from error

    def _read(self, deadline: float) -> bytes:
        _waiting.append(None)
        try:
            data = self._spin() if self.socket.plain and not self._skips_left and len(_waiting) == 1 else None
            if data is None:
                self._skips_left = max(0, self._skips_left - 1)
                data = self.socket.read(CHUNK, deadline)
        finally:
            _waiting.pop()
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data

    def _spin(self) -> bytes | None:
        """Poll for a reply without sleeping; return None if there is none in time.

        A Redis nearby replies in less time than a thread needs to fall asleep and be woken, which also costs as much
        CPU (docs/decisions/0018-looking-before-sleeping.md). A thread polls only if no other waits for a reply, because
        each poll takes the GIL from other threads.
        """
        deadline = time.perf_counter() + SPIN_SECONDS
        while time.perf_counter() < deadline:
            data = self.socket.read_nowait(CHUNK)
            if data is not None:
                self._skip = 0
                return data
            if len(_waiting) > 1:  # another thread waits now: leave it the GIL
                return None
        self._skips_left = self._skip = min(2 * self._skip + 1, MOST_SKIPPED)
        return None

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def __del__(self) -> None:
        if hasattr(self, "socket"):
            self.close()


def resolve(address: Address, within: float) -> Address:
    """Return the current address of the server, as the Sentinels name it if there are any. Raises `OSError`."""
    if not address.sentinels:
        return address
    failure: OSError | None = None
    question = hiredis.pack_command(cast(Any, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)))
    for host, port in address.sentinels:
        try:
            limit = min(within, SENTINEL_SECONDS)
            sentinel = Connection(Address(host=host, port=port), limit, time.monotonic() + limit)
            [reply] = sentinel.check(question)
            sentinel.close()
        except OSError as error:
            failure = error
            continue
        if isinstance(reply, list):
            return address.at(reply[0].decode(), int(reply[1]))
        failure = ConnectionError(f"the Sentinel at {host}:{port} knows no {address.service!r}")
    raise failure or ConnectionError("the URL names no Sentinels")


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())
