"""No task queue: how often a bare LPUSH can be sent and answered. It bounds all that wait for Redis once per call."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import hiredis

from benchmarks.peers.redis_peer import URL, RedisPeer

BODY = b"x" * 200  # about a message's length


class BareRedis(RedisPeer):
    """One list, one blocking socket."""

    title = "bare LPUSH"
    module = "hiredis"
    packages = ("hiredis",)
    settings = f"{len(BODY)} bytes, a socket and hiredis: the bound of one round trip per call; far from steady"

    def __init__(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", urlsplit(URL).port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        command: Any = ("LPUSH", "list", BODY)
        reader = hiredis.Reader()
        for _ in arguments:
            self._socket.sendall(hiredis.pack_command(command))
            while reader.gets() is False:
                reader.feed(self._socket.recv(4096))

    def roundtrip(self, timeout: float) -> Any:
        raise NotImplementedError

    def waiting(self) -> int:
        raise NotImplementedError

    def worker(self, children: int, tuned: bool) -> list[str]:
        raise NotImplementedError


PEER = BareRedis()
