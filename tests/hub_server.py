"""A real hub for the tests: a process of its own on a free port, with its data in a temporary folder."""

from __future__ import annotations

import os
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from celeriac.hub.serve import Hub
from tests.clock import FakeClock
from tests.forked import COMMAND, Forked
from tests.patience import PATIENCE, wait_for
from tests.ports import free_port
from tests.signalling import send

__all__ = ["FileClock", "HubServer", "SharedClock", "running_hub"]

MOMENT = struct.Struct("dd")


class FileClock(FakeClock):
    """The clock of a hub whose time a test sets, in a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = os.open(path, os.O_RDONLY)

    def now(self) -> float:
        return self._read()[0]

    def steady(self) -> float:
        return self._read()[1]

    def _read(self) -> tuple[float, float]:
        instant, passed = MOMENT.unpack(os.pread(self._file, MOMENT.size, 0))
        return instant, passed


class SharedClock(FakeClock):
    """The test's side of it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        self.advance(0.0)

    def step(self, seconds: float) -> None:
        super().step(seconds)
        os.pwrite(self._file, MOMENT.pack(self.instant, self.passed), 0)


class HubServer:
    """`celeriac hub`, that can be stopped, killed, frozen and started again."""

    def __init__(self, folder: Path, *arguments: str, bind: str = "", clock: SharedClock | None = None,
                 query: str = "") -> None:  # fmt: skip
        self.folder = folder
        self.data = folder / "celeriac.db"
        self.bind = bind or f"tcp://127.0.0.1:{free_port()}"
        self.url = self.bind.replace("tcp://", "zmq://").replace("ipc://", "zmq+ipc://") + query
        self.log = folder / "hub.log"
        self.arguments = ["hub", "--bind", self.bind, "--data", str(self.data), *arguments]
        self.clock = clock
        self.process: Forked | None = None
        self.start()

    def start(self) -> None:
        self.log.touch()
        begin = self.log.stat().st_size
        function, words = COMMAND, self.arguments
        if self.clock is not None:
            function, words = "tests.hub_server:run_hub", [self.bind, str(self.data), str(self.clock.path)]
        self.process = process = Forked(function, *words, cwd=os.getcwd(), environment=os.environ, log=self.log,
                                        imports=["celeriac.cli.hub", "celeriac.hub.serve"])  # fmt: skip

        def ready() -> bool:
            assert process.poll() is None, self.text()
            return "the hub is ready" in self.text(begin)  # of this start

        wait_for(ready, "the hub being ready")

    def emptied(self) -> SharedClock | None:
        """Give it a new file; return its clock, set to the time at which it begins, if it has one of its own."""
        self.data.unlink(missing_ok=True)
        if self.clock is not None:
            self.clock.instant = FakeClock().instant
            self.clock.passed += 3600.0  # what an earlier test has done to the clock is over
            self.clock.step(0.0)
        return self.clock

    def text(self, begin: int = 0) -> str:
        return self.log.read_bytes()[begin:].decode(errors="replace")

    def send(self, number: int) -> None:
        assert self.process is not None
        send(self.process.pid, number)

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):  # it has ended by itself
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


def run_hub(bind: str, data: str, moment: str) -> None:
    """Run a hub whose time is in a file."""
    hub = Hub([bind], data, clock=FileClock(moment))
    hub.open()
    print("the hub is ready", file=sys.stderr, flush=True)
    hub.run()
