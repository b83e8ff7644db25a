"""Shared by `redis_server` and `rabbitmq_server`: finding free ports, waiting for a server, passing on its URL."""

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

PAUSE = 0.02  # seconds between two attempts

T = TypeVar("T")


def free_ports(number: int) -> list[int]:
    """Return ports that no process listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def answer(process: subprocess.Popen[bytes], attempt: Callable[[], T], seconds: float, log: Path) -> T:
    """Call `attempt` until it succeeds, and return its result. Raises `BenchmarkError` if the server does not start."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            return attempt()
        time.sleep(PAUSE)
    raise BenchmarkError(f"The server did not start:\n{log.read_text(errors='replace')}")


@contextmanager
def shared(stage: Stage, variables: dict[str, str], clear: Callable[[], object]) -> Iterator[None]:
    """Within a `with` block, pass a server to all of the stage's measurements; `clear` is called before each."""
    with stage.exporting(variables):
        stage.clear = clear
        try:
            yield
        finally:
            stage.clear = lambda: None
