"""A real Redis for the tests: started on a free port of this machine, with its data in a temporary folder."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.server_process import ServerProcess, missing

__all__ = ["RedisClock", "RedisServer", "running_redis"]

MISSING = "redis-server is not installed: apt-get install redis-server"


class RedisServer(ServerProcess):
    """`redis-server`, that can be stopped, killed, frozen and started again."""

    def __init__(self, folder: Path, *arguments: str, settings: Path | None = None, password: str = "",
                 tls: bool = False) -> None:  # fmt: skip
        if shutil.which("redis-server") is None:
            missing(MISSING)
        self.folder = folder
        self.arguments = arguments
        self.settings = settings  # of a Sentinel
        self.password = password  # that it was told by its arguments to ask for
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        if tls:
            port = free_port()
            self.tls_url = f"rediss://127.0.0.1:{port}/0"
            self.arguments = (*arguments, "--tls-port", str(port))
        self.start()

    def start(self) -> None:
        command = [
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder),
            "--unixsocket", str(self.folder / "s"), "--logfile", str(self.folder / "redis.log"),
            "--enable-debug-command", "local", *self.arguments,
        ]  # fmt: skip
        if self.settings is not None:
            with self.settings.open("a") as file:
                log = self.folder / "redis.log"
                file.write(f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\nlogfile {log}\n")
            command = ["redis-server", str(self.settings), "--sentinel"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError):
                if self.ask("PING") == b"PONG":
                    return
            assert self.process.poll() is None, (self.folder / "redis.log").read_text()
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.02)

    def ask(self, *command: Any) -> Any:
        """Carry out a command on a connection of its own; nothing but the socket in between."""
        import hiredis

        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connection:
            reply = None
            for one in [("AUTH", self.password), command] if self.password else [command]:
                connection.sendall(hiredis.pack_command(one))
                reader = hiredis.Reader()
                while (reply := reader.gets()) is False:
                    data = connection.recv(65536)
                    if not data:
                        raise ConnectionResetError
                    reader.feed(data)
            return reply


@contextmanager
def running_redis(folder: Path, *arguments: str, settings: Path | None = None, password: str = "",
                  tls: bool = False) -> Iterator[RedisServer]:  # fmt: skip
    """Run a server for as long as a block lasts."""
    server = RedisServer(folder, *arguments, settings=settings, password=password, tls=tls)
    try:
        yield server
    finally:
        server.end()


class RedisClock(FakeClock):
    """Time that passes for the keys of a server too, if they expire."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self._server = server

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        kinds = ("outcome:*", "workflow:*", "recent", "claim:*")
        for key in [key for kind in kinds for key in self._server.ask("KEYS", f"*:{kind}")]:
            left = self._server.ask("PTTL", key)
            if left >= 0:
                self._server.ask("PEXPIRE", key, max(0, int(left - seconds * 1000)))
