"""A hub for one benchmark: on a free port, with CURVE, on an empty file before each measurement."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.peers.base import HUB_FILE_VARIABLE, HUB_VARIABLE
from benchmarks.server import answer, shared
from benchmarks.stage import Stage
from tests.ports import free_port

__all__ = ["HubProcess", "running"]

START_SECONDS = 20.0
COMMAND = [sys.executable, "-m", "celeriac.cli", "hub"]


class HubProcess:
    """The process, which is started anew to empty its file."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self.file = folder / "celeriac.db"
        for name in ([], ["bench"]):
            told = subprocess.run([*COMMAND, "keys", *name], cwd=folder, check=True, capture_output=True, text=True)
        key, file = re.search(r"server_key=(\w+)&key_file=(\S+)", told.stdout).groups()  # type: ignore[union-attr]
        found = next(path for path in folder.rglob(file))
        self.url = f"zmq://127.0.0.1:{port}?server_key={key}&key_file={found}"
        self.process: subprocess.Popen[bytes] | None = None

    def restart(self) -> None:
        self.stop()
        for path in self._folder.glob(f"{self.file.name}*"):
            path.unlink()
        log = self._folder / "hub.log"
        bind = f"tcp://127.0.0.1:{self._port}"
        with log.open("w") as output:
            self.process = subprocess.Popen([*COMMAND, "--bind", bind, "--data", str(self.file)], cwd=self._folder,
                                             stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # fmt: skip

        def ready() -> None:
            if "is ready" not in log.read_text(errors="replace"):
                raise FileNotFoundError(log)

        answer(self.process, ready, START_SECONDS, log)

    def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()


@contextmanager
def running(stage: Stage) -> Iterator[HubProcess]:
    """Run a hub within a `with` block, for all of the stage's measurements."""
    with stage.scratch() as folder:
        hub = HubProcess(folder, free_port())
        try:
            hub.restart()
            with shared(stage, {HUB_VARIABLE: hub.url, HUB_FILE_VARIABLE: str(hub.file)}, clear=hub.restart):
                yield hub
        finally:
            hub.stop()
