"""A Redis server for one benchmark: on a free port, without persistence, emptied before each measurement.

`running` passes its URL to the measuring processes in an environment variable.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

from benchmarks.peers.base import REDIS_VARIABLE
from benchmarks.redis_line import Line
from benchmarks.server import answer, shared
from benchmarks.stage import BenchmarkError, Stage
from tests.ports import free_port

__all__ = ["ARGUMENTS", "running"]

ARGUMENTS = ("--save", "", "--appendonly", "no")
START_SECONDS = 20.0


@contextmanager
def running(stage: Stage) -> Iterator[Line]:
    """Run a server within a `with` block, for all of the stage's measurements; yield a connection to it."""
    if shutil.which("redis-server") is None:
        raise BenchmarkError("redis-server is not installed: apt-get install redis-server")
    with stage.scratch() as folder:
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *ARGUMENTS]
        with (folder / "redis.log").open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            line = answer(process, lambda: _connected(port), START_SECONDS, folder / "redis.log")
            variables = {REDIS_VARIABLE: f"redis://127.0.0.1:{port}/0"}
            with closing(line), shared(stage, variables, clear=lambda: line.ask("FLUSHALL", "SYNC")):
                yield line
        finally:
            process.kill()
            process.wait()


def _connected(port: int) -> Line:
    line = Line(port)
    line.ask("PING")
    return line
