"""A real hub for the tests: a process of its own on a free port, with its data in a temporary folder.

Tests kill and start hubs all the time, and half a second of each start would be imports. So a process that has imported
everything, and has opened nothing, forks them (`python -m tests.hub_server`). The fork runs the command as it is.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from celeriac.cli import hub as _imported  # noqa: F401 - with all that the command needs
from celeriac.cli import main
from celeriac.hub.serve import Hub
from tests.clock import FakeClock
from tests.patience import PATIENCE, wait_for
from tests.ports import free_port
from tests.signalling import send

__all__ = ["FileClock", "HubServer", "SharedClock", "running_hub"]

MOMENT = struct.Struct("d")


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
        self.arguments = ["hub", "--bind", self.bind, "--data", str(self.data), *arguments]
        self.clock = clock
        self.process: Forked | None = None
        self.start()

    def start(self) -> None:
        self.log.touch()
        begin = self.log.stat().st_size
        self.process = process = Forked(arguments=self.arguments, log=str(self.log.absolute()), cwd=os.getcwd(),
                                        environment=dict(os.environ), bind=self.bind, data=str(self.data),
                                        moment=str(self.clock.path) if self.clock is not None else "")  # fmt: skip

        def ready() -> bool:
            assert process.poll() is None, self.text()
            return "the hub is ready" in self.text(begin)  # of this start

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
        with suppress(ProcessLookupError):  # it has ended by itself
            if number != signal.SIGKILL:
                self.send(signal.SIGCONT)
            self.send(number)
        self.process.wait(PATIENCE)
        self.process = None

    def end(self) -> None:
        if self.process is not None:
            self.kill()


class Forked:
    """A process that is no child of this one, as far as it is used like a `Popen`."""

    def __init__(self, **wanted: Any) -> None:
        forker = _forker()
        assert forker.stdin is not None
        assert forker.stdout is not None
        forker.stdin.write(json.dumps(wanted) + "\n")
        forker.stdin.flush()
        self.pid = int(forker.stdout.readline())
        self._descriptor = -1
        with suppress(ProcessLookupError):  # it has ended already
            self._descriptor = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Return None while it runs."""
        return None if self._descriptor >= 0 and not self._has_ended(0.0) else 0

    def wait(self, seconds: float) -> None:
        """Wait for its end."""
        if self._descriptor >= 0 and not self._has_ended(seconds):
            raise TimeoutError(f"The process {self.pid} has not ended within {seconds:g} s")

    def _has_ended(self, seconds: float) -> bool:
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return False
        os.close(self._descriptor)
        self._descriptor = -1
        return True


@cache
def _forker() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-m", "tests.hub_server"], cwd=Path(__file__).parents[1], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.communicate()  # it reads to the end of its input


@contextmanager
def running_hub(folder: Path, *arguments: str, bind: str = "", clock: SharedClock | None = None,
                query: str = "") -> Iterator[HubServer]:  # fmt: skip
    """Run a hub for as long as a block lasts."""
    server = HubServer(folder, *arguments, bind=bind, clock=clock, query=query)
    try:
        yield server
    finally:
        server.end()


def _fork_hubs() -> None:
    """Fork a process for each line of the input; write its number."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none is waited for
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become_hub(**json.loads(line))
            os._exit(0)
        print(child, flush=True)


def _become_hub(arguments: list[str], log: str, cwd: str, environment: dict[str, str], bind: str, data: str,
                moment: str) -> None:  # fmt: skip
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND)
    for number, descriptor in enumerate((nothing, output, output)):
        os.dup2(descriptor, number)
    if not moment:
        main(arguments, prog_name="celeriac")
        return
    hub = Hub([bind], data, clock=FileClock(moment))
    hub.open()
    print("the hub is ready", file=sys.stderr, flush=True)
    hub.run()


if __name__ == "__main__":
    _fork_hubs()
