"""A real hub for the tests: a process of its own on a free port, with its data in a temporary folder."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.clock import FakeClock
from tests.patience import PATIENCE, wait_for
from tests.ports import free_port
from tests.signalling import send

__all__ = ["FileClock", "HubServer", "SharedClock", "running_hub"]

MOMENT = struct.Struct("d")

WITH_CLOCK = """
import sys
from celeriac.hub.serve import Hub
from tests.hub_server import FileClock
bind, data, moment = sys.argv[1:]
hub = Hub([bind], data, clock=FileClock(moment))
hub.open()
print("the hub is ready", file=sys.stderr, flush=True)
hub.run()
"""


class FileClock(FakeClock):
    """The clock of a hub whose time a test sets, in a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = os.open(path, os.O_RDONLY)

    def now(self) -> float:
        return float(MOMENT.unpack(os.pread(self._file, MOMENT.size, 0))[0])


class SharedClock(FakeClock):
    """The test's side of it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        os.pwrite(self._file, MOMENT.pack(self.instant), 0)


class HubServer:
    """`celeriac hub`, that can be stopped, killed, frozen and started again."""

    def __init__(self, folder: Path, *arguments: str, bind: str = "", clock: SharedClock | None = None,
                 query: str = "") -> None:  # fmt: skip
        self.folder = folder
        self.data = folder / "celeriac.db"
        self.bind = bind or f"tcp://127.0.0.1:{free_port()}"
        self.url = self.bind.replace("tcp://", "zmq://").replace("ipc://", "zmq+ipc://") + query
        self.log = folder / "hub.log"
        self.command = [sys.executable, "-m", "celeriac", "hub", "--bind", self.bind, "--data", str(self.data),
                        *arguments]  # fmt: skip
        self.clock = clock
        if clock is not None:
            self.command = [sys.executable, "-c", WITH_CLOCK, self.bind, str(self.data), str(clock.path)]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            begin = log.tell()
            self.process = process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def ready() -> bool:
            assert process.poll() is None, self.text()
            return "the hub is ready" in self.text(begin)

        wait_for(ready, "the hub being ready")

    def emptied(self) -> SharedClock | None:
        """Give it a new file; return its clock, set to the time at which it begins, if it has one of its own."""
        self.data.unlink(missing_ok=True)
        if self.clock is not None:
            self.clock.instant = FakeClock().instant
            self.clock.advance(0.0)
        return self.clock

    def text(self, begin: int = 0) -> str:
        return self.log.read_bytes()[begin:].decode(errors="replace")

    def send(self, number: int) -> None:
        assert self.process is not None
        send(self.process.pid, number)

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        if number != signal.SIGKILL:
            self.send(signal.SIGCONT)
        self.send(number)
        self.process.wait(PATIENCE)
        self.process = None

    def end(self) -> None:
        if self.process is not None:
            self.kill()


@contextmanager
def running_hub(folder: Path, *arguments: str, bind: str = "", clock: SharedClock | None = None,
                query: str = "") -> Iterator[HubServer]:  # fmt: skip
    """Run a hub for as long as a block lasts."""
    server = HubServer(folder, *arguments, bind=bind, clock=clock, query=query)
    try:
        yield server
    finally:
        server.end()
