"""What a server of a benchmark's own needs, whichever it is: free ports, patience until it answers, and to be found.

Used by `redis_server` and `rabbitmq_server`.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from benchmarks.stage import BenchmarkError, Stage

__all__ = ["answer", "free_ports", "shared"]

PAUSE = 0.02  # seconds between two tries

T = TypeVar("T")


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def answer(process: subprocess.Popen[bytes], attempt: Callable[[], T], seconds: float, log: Path) -> T:
    """Try until it works, and return what it brings; `BenchmarkError`, with the log, if the server has not started."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            return attempt()
        time.sleep(PAUSE)
    raise BenchmarkError(f"The server has not started:\n{log.read_text(errors='replace')}")


@contextmanager
def shared(stage: Stage, variables: dict[str, str], clear: Callable[[], object]) -> Iterator[None]:
    """Let all that the stage measures find a server, emptied before each measurement, for as long as a block lasts."""
    with stage.telling(variables):
        stage.clear = clear
        try:
            yield
        finally:
            stage.clear = lambda: None
