"""A Redis for one benchmark: started on a free port, without persistence, emptied before each measurement.

`running` puts its URL where the measuring processes find it.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.peers.base import REDIS_VARIABLE
from benchmarks.redis_line import Line
from benchmarks.stage import BenchmarkError, Stage

__all__ = ["ARGUMENTS", "running"]

ARGUMENTS = ("--save", "", "--appendonly", "no")
START_SECONDS = 20.0


@contextmanager
def running(stage: Stage) -> Iterator[Line]:
    """Run a server for as long as a block lasts, for all that the stage measures in it; yield a line to it."""
    if shutil.which("redis-server") is None:
        raise BenchmarkError("redis-server is not installed: apt-get install redis-server")
    with stage.scratch() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *ARGUMENTS]
        with (folder / "redis.log").open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            line = _connected(process, port, folder / "redis.log")
            stage.variables[REDIS_VARIABLE] = f"redis://127.0.0.1:{port}/0"
            stage.clear = lambda: line.ask("FLUSHALL", "SYNC")
            try:
                yield line
            finally:
                del stage.variables[REDIS_VARIABLE]
                stage.clear = lambda: None
                line.close()
        finally:
            process.kill()
            process.wait()


def _connected(process: subprocess.Popen[bytes], port: int, log: Path) -> Line:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            line = Line(port)
            line.ask("PING")
            return line
        time.sleep(0.02)
    raise BenchmarkError(f"redis-server has not started:\n{log.read_text(errors='replace')}")
