"""A real Memcached for the tests: started on a free port of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import unquote

from celeriac.drivers.peer import Peer, Stream
from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.server_process import ServerProcess, missing

__all__ = ["MemcachedClock", "MemcachedServer", "Replies", "answering", "running_memcached"]

MISSING = "memcached is not installed: apt-get install memcached"


class MemcachedServer(ServerProcess):
    """`memcached`, that can be killed, frozen and started again (empty)."""

    def __init__(self, *arguments: str) -> None:
        if shutil.which("memcached") is None:
            missing(MISSING)
        self.arguments = arguments
        self.port = free_port()
        self.url = f"memcached://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        user = ["-u", "memcache"] if os.getuid() == 0 else []
        self.process = subprocess.Popen(
            ["memcached", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "64", *user, *self.arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError):
                if self.ask("version").startswith("VERSION"):
                    return
            assert self.process.poll() is None, "memcached has ended"
            assert time.monotonic() < deadline, "memcached did not start"
            time.sleep(0.02)

    def ask(self, command: str, end: bytes = b"\r\n") -> str:
        """Carry out a command on a connection of its own; nothing but the socket in between."""
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            connection.sendall(command.encode() + b"\r\n")
            reply = b""
            while not reply.endswith(end):
                data = connection.recv(65536)
                if not data:
                    raise ConnectionResetError
                reply += data
            return reply.decode()

    def keys(self) -> dict[str, int]:
        """Return the seconds that each value has left, by key; -1: it never expires."""
        lines = self.ask("lru_crawler metadump all", b"END\r\n").splitlines()
        names = [unquote(line.split()[0].removeprefix("key=")) for line in lines if line.startswith("key=")]
        return {name: int(found.split()[1][1:]) for name in names if (found := self.ask(f"mg {name} t")) != "EN\r\n"}


@contextmanager
def running_memcached(*arguments: str) -> Iterator[MemcachedServer]:
    """Run a server for as long as a block lasts."""
    server = MemcachedServer(*arguments)
    try:
        yield server
    finally:
        server.end()


class MemcachedClock(FakeClock):
    """Time that passes for the values of servers too."""

    def __init__(self, *servers: MemcachedServer) -> None:
        super().__init__()
        self._servers = servers

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        for server in self._servers:
            for key, left in server.keys().items():
                if left > seconds:
                    server.ask(f"touch {key} {int(left - seconds)}")
                elif left >= 0:
                    server.ask(f"delete {key}")


class Replies(Peer):
    """A peer whose server has sent `data` on each connection, and then ends it."""

    data = b""

    def __init__(self, kind: str) -> None:
        super().__init__(kind, "nowhere", 1, PATIENCE)
        self._others: list[socket.socket] = []

    def _connect(self, deadline: float) -> Stream:
        here, there = socket.socketpair()
        self._others.append(there)  # stays open, for requests
        there.sendall(self.data)
        there.shutdown(socket.SHUT_WR)
        return Stream(here)

    def close(self) -> None:
        super().close()
        while self._others:
            self._others.pop().close()


@contextmanager
def answering(replies: Sequence[bytes | None]) -> Iterator[int]:
    """Run a server that gives these replies, whatever it is asked; at a None, it closes the connection. Yield its port.

    The last reply is given again and again. Requests must fit in one packet.
    """
    left = list(replies)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while connection.recv(65536):
                    reply = left.pop(0) if len(left) > 1 else left[0]
                    if reply is None:
                        return
                    connection.sendall(reply)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=talk, args=[listener.accept()[0]], daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
