"""The double of Tokyo Tyrant as a server of the tests: a process of its own on a free port of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.patience import wait_for
from tests.ports import free_port
from tests.server_process import ServerProcess

__all__ = ["TyrantServer", "running_tyrant"]

DOUBLE = Path(__file__).with_name("tyrant_double.py")


class TyrantServer(ServerProcess):
    """A process with it, that can be killed, frozen and started again (empty)."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self.arguments = arguments
        self.start()

    @property
    def url(self) -> str:
        return f"tyrant://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-S", str(DOUBLE), str(self.port), *self.arguments])
        wait_for(self._is_up, "the double of Tokyo Tyrant")

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the double of Tokyo Tyrant has ended"
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
            return True
        return False


@contextmanager
def running_tyrant(*arguments: str) -> Iterator[TyrantServer]:
    """Run the double for as long as a block lasts."""
    server = TyrantServer(*arguments)
    try:
        yield server
    finally:
        server.end()
