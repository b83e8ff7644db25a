"""Remote workers for the tests of promises: servers of the HTTP API that can be killed and started again at the same
address, and processes of Node.js that run `victim.mjs` with the client of `examples/javascript_worker`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.environment import without_settings
from tests.forked import COMMAND, Forked
from tests.patience import PATIENCE, wait_for
from tests.ports import free_port
from tests.promises.harness import LEASE, Stage, imports_of

__all__ = ["Node", "Web"]

NODE = shutil.which("node")
CLIENT = Path(__file__).parent.parent.parent / "examples" / "javascript_worker" / "celeriac.mjs"
VICTIM = Path(__file__).with_name("victim.mjs")


class _Process:
    """A process of a stage, which its end takes down."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.log = stage.folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | Forked | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _start(self, start: Callable[[], subprocess.Popen[bytes] | Forked], ready: str) -> None:
        self.log.touch()
        before = len(self.text())
        self.process = start()
        if self not in self.stage.workers:
            self.stage.workers.append(self)  # type: ignore[arg-type]

        def is_ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.text()
            return ready in self.text()[before:]

        wait_for(is_ready, f"{self.name} being ready")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stop it, and return when it has stopped."""
        self.signal(signal.SIGSTOP)
        state = Path(f"/proc/{self.pid}/stat")
        wait_for(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", f"{self.name} being frozen")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Stop it as a deploy does; return its exit code."""
        assert self.process is not None
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()


class Web(_Process):
    """`celeriac -A victim web`, always at the same address."""

    def __init__(self, stage: Stage, name: str = "web", **settings: Any) -> None:
        super().__init__(stage, name)
        self.settings = {"web_rate": 100_000, "worker_lease_seconds": LEASE, **settings}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> Web:
        environment = without_settings()
        environment |= {f"CELERIAC_{name.upper()}": str(value) for name, value in self.settings.items()}
        environment |= self.stage.ground.environment
        imports = ["celeriac.dashboard.application", "celeriac.web.serving", *imports_of("web", environment)]
        words = ("-A", "victim", "web", "--port", str(self.port))
        self._start(lambda: Forked(COMMAND, *words, cwd=self.stage.folder, environment=environment, log=self.log,
                                   imports=imports), "Ctrl-C stops it")  # fmt: skip
        return self

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"{self.url}/api/v1", timeout=PATIENCE, trust_env=False)


class Node(_Process):
    """A remote worker in JavaScript."""

    def __init__(self, web: Web, name: str, concurrency: int = 2, lease: float = LEASE, grace: float = 25.0) -> None:
        super().__init__(web.stage, name)
        self.web = web
        self.arguments = (str(concurrency), str(lease), str(grace), str(web.stage.folder))
        self.start()

    def start(self) -> Node:
        self._start(self._popen, "is ready")
        return self

    def _popen(self) -> subprocess.Popen[bytes]:
        assert NODE is not None
        command = [NODE, str(VICTIM), str(CLIENT), self.web.url, self.name, *self.arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=self.stage.folder, env=without_settings(), stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log)  # fmt: skip

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE)
