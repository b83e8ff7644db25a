"""A blocking connection: commands out, replies in. Made and kept by `server`."""

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
SPIN_SECONDS = 100e-6  # an answer is looked for so long before the kernel is asked to wake us for it
MOST_VAIN = 1023  # after looking in vain, so many answers at most are waited for without
SENTINEL_SECONDS = 1.0  # for one Sentinel to answer, while there are others

_waiting: list[None] = []  # as many as there are threads of this process that wait for an answer
os.register_at_fork(after_in_child=_waiting.clear)


class Connection:
    """One socket. After any error it is of no use: close it.

    Raises `OSError` (with `TimeoutError`) alone; error replies are returned as they are.
    """

    def __init__(self, address: Address, timeout: float, within: float) -> None:
        """Connect within `within` seconds; later, no exchange takes longer than `timeout`."""
        deadline = time.monotonic() + within
        self.address = address
        self.reader = hiredis.Reader()
        self.socket = TimedSocket(address.connect(within))
        self._timeout = max(0.01, deadline - time.monotonic())
        self._patience = 0  # how many answers to wait for without looking first; doubles each time that looking is vain
        self._waits = 0  # … of these are left
        try:
            self.greetings = self._greet(address)
            self._timeout = timeout
        except BaseException:
            self.close()
            raise

    def _greet(self, address: Address) -> list[Any]:
        commands = address.greeting()
        if not commands:
            return []
        return self.exchange(b"".join(map(hiredis.pack_command, commands)), len(commands))

    def exchange(self, packed: bytes, count: int) -> list[Any]:
        """Send commands, and return as many replies."""
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
            data = self._spin() if self.socket.plain and not self._waits and len(_waiting) == 1 else None
            if data is None:
                self._waits = max(0, self._waits - 1)
                data = self.socket.read(CHUNK, deadline)
        finally:
            _waiting.pop()
        if not data:
            raise ConnectionResetError("it closed the connection")
        return data

    def _spin(self) -> bytes | None:
        """Look for an answer without sleeping; return None if there is none in time.

        A Redis nearby answers in less time than it takes to fall asleep and be woken, which costs as much CPU besides
        (docs/decisions/0018-looking-before-sleeping.md). Only who waits alone looks: each look would take the GIL from
        the others.
        """
        deadline = time.perf_counter() + SPIN_SECONDS
        while time.perf_counter() < deadline:
            data = self.socket.look(CHUNK)
            if data is not None:
                self._patience = 0
                return data
            if len(_waiting) > 1:  # another thread had its turn meanwhile: leave it the next ones too
                return None
        self._waits = self._patience = min(2 * self._patience + 1, MOST_VAIN)
        return None

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def __del__(self) -> None:
        if hasattr(self, "socket"):
            self.close()


def resolve(address: Address, within: float) -> Address:
    """Return where the server is now: where Sentinels say, if there are any. Raises `OSError`."""
    if not address.sentinels:
        return address
    trouble: OSError | None = None
    question = hiredis.pack_command(cast(Any, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)))
    for host, port in address.sentinels:
        try:
            limit = min(within, SENTINEL_SECONDS)
            sentinel = Connection(Address(host=host, port=port), limit, limit)
            [answer] = sentinel.exchange(question, 1)
            sentinel.close()
        except OSError as error:
            trouble = error
            continue
        if isinstance(answer, list):
            return address.at(answer[0].decode(), int(answer[1]))
        trouble = ConnectionError(f"its Sentinel at {host}:{port} knows no {address.service!r}")
    raise trouble or ConnectionError("it has no Sentinels")
