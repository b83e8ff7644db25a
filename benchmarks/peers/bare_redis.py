"""No task queue: the time that Redis, the kernel and four processes take by themselves.

A bare LPUSH is the upper bound for every library that waits for Redis once per call. The bare round trip, through two
lists with a supervisor between Redis and a child, is the upper bound for round trips of that design.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import hiredis

from benchmarks.peers.echo import MOST, echoing_child
from benchmarks.peers.redis_peer import URL, RedisPeer

BODY = b"x" * 200  # about a message's length
CALLS, ANSWERS = "calls", "answers"


class Line:
    """A blocking socket to Redis."""

    def __init__(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", urlsplit(URL).port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def say(self, *commands: tuple[Any, ...]) -> None:
        """Send commands at once."""
        self._socket.sendall(b"".join(map(hiredis.pack_command, commands)))

    def hear(self) -> Any:
        """Return the next reply."""
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(4096))
        return reply


class BareRedis(RedisPeer):
    """One list and one blocking socket; for round trips, a second list and a worker of two processes."""

    title = "bare Redis"
    module = "hiredis"
    packages = ("hiredis",)
    settings = (
        f"no task queue: {len(BODY)} bytes by LPUSH, a socket and hiredis; round trips by BRPOP, with a supervisor and "
        "a child that return what they receive: the upper bound of such a design; varies widely"
    )

    def __init__(self) -> None:
        self._bare = Line()

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for _ in arguments:
            self._bare.say(("LPUSH", "list", BODY))
            self._bare.hear()

    def roundtrip(self, timeout: float) -> Any:
        self._bare.say(("LPUSH", CALLS, BODY))
        self._bare.hear()
        self._bare.say(("BRPOP", ANSWERS, timeout))
        answer = self._bare.hear()
        assert answer is not None, "no answer came"
        return answer[1]

    def waiting(self) -> int:
        raise NotImplementedError

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "benchmarks.peers.bare_redis"]


def work() -> None:
    """Run the supervisor: pass each call to the child, push the answer, and request the next call at once."""
    child = echoing_child()
    line = Line()
    line.say(("BRPOP", CALLS, 0))
    while True:
        child.send(line.hear()[1])
        line.say(("LPUSH", ANSWERS, child.recv(MOST)), ("BRPOP", CALLS, 0))
        line.hear()


PEER = BareRedis()

if __name__ == "__main__":
    work()
