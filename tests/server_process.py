"""What the servers of the tests have in common: a process that is killed, frozen, thawed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from typing import NoReturn

import pytest

from tests.patience import PATIENCE
from tests.signalling import send

__all__ = ["ServerProcess", "missing"]


class ServerProcess(ABC):
    """A server that a test has for itself."""

    process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start it, and wait until it answers."""

    def send(self, number: int) -> None:
        assert self.process is not None
        send(self.process.pid, number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it, as `kill -9` and a crash do, or by another signal."""
        assert self.process is not None
        if number != signal.SIGKILL:
            self.thaw()
        self.send(number)
        self.process.wait(PATIENCE)
        self.process = None

    def end(self) -> None:
        if self.process is not None:
            self.kill()


def missing(what: str) -> NoReturn:
    """Skip the test: there is no such program here. Fail it where all are required (`CELERIAC_TEST_REQUIRE=all`)."""
    if os.environ.get("CELERIAC_TEST_REQUIRE") == "all":
        pytest.fail(what)
    pytest.skip(what)
