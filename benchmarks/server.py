"""Servers of the benchmarks: waiting until one answers, passing on its URL, serving HTTP by a contender."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.stage import BenchmarkError, Stage
from tests.ports import free_port

__all__ = ["answer", "serving", "shared"]

PAUSE = 0.02  # seconds between two attempts
START_SECONDS = 60.0

T = TypeVar("T")


def answer(process: subprocess.Popen[Any], attempt: Callable[[], T], seconds: float, log: Path) -> T:
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


@contextmanager
def serving(stage: Stage, folder: Path, contender: str) -> Iterator[int]:
    """Within a `with` block, serve HTTP by a contender; yield the port, once it listens."""
    port = free_port()

    def connect() -> None:
        socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS).close()

    with stage.started(folder, contender, "serve", port) as process:
        answer(process, connect, START_SECONDS, folder / "log")
        yield port
