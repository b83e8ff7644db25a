"""The processes that the demonstration starts; used by `story.py`.

Each is a context manager that ends its process on exit, for whatever reason the block is left.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from celeriac.demo import tasks

__all__ = ["START_SECONDS", "DemoError", "HubProcess", "SiteProcess", "WorkerProcess"]

GRACE_SECONDS = 8.0
START_SECONDS = 20.0
LOOK_SECONDS = 0.02
LISTENS = re.compile(r"listens +tcp://(\S+)\n")  # in what the hub prints when it is ready
TAIL_LINES = 15


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


class _Process:
    """A process in its own session, so that Ctrl-C in the terminal is not sent to it directly."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[str]

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:  # fmt: skip
        try:
            self.stop()
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also reached if Ctrl-C interrupts the wait
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def stop(self) -> None:
        """Ask the process to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def check(self) -> None:
        """Raise `DemoError` with the end of the log if the process has exited."""
        code = self._process.poll()
        if code is not None:
            raise DemoError(f"The {self.name} exited unexpectedly, with exit code {code}. {self.tail()}")

    def tail(self) -> str:
        """Return the end of the log, as a sentence for an error message."""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:] if self.log.exists() else []
        return "\n  ".join(["The end of its log:", *lines]) if lines else "Its log is empty."


class WorkerProcess(_Process):
    """`celeriac -A celeriac.demo.tasks worker -c 2`."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__("worker", folder)
        self._folder = folder
        self._url = url

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "celeriac.cli", "-A", "celeriac.demo.tasks", "worker", "-c", "2"]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=_environment(self._url), text=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self


class HubProcess(_Process):
    """`celeriac hub`, on any free port; `url` is its address for worker and callers."""

    def __init__(self, folder: Path, database: Path) -> None:
        super().__init__("hub", folder)
        self.url = ""
        self._database = database

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "celeriac.cli", "hub", "--bind", "tcp://127.0.0.1:*", "--data",
                   str(self._database)]  # fmt: skip
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, env=_environment(""), text=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            deadline = time.monotonic() + START_SECONDS
            while (found := LISTENS.search(self.log.read_text(errors="replace"))) is None:
                self.check()
                if time.monotonic() > deadline:
                    raise DemoError(f"The hub did not start within {START_SECONDS:g} s. {self.tail()}")
                time.sleep(LOOK_SECONDS)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.url = f"zmq://{found[1]}"
        return self


class SiteProcess(_Process):
    """The web site; `base` is its address."""

    def __init__(self, folder: Path, pages: int) -> None:
        super().__init__("site", folder)
        self.base = ""
        self._pages = pages

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "celeriac.demo.site", str(self._pages)]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            port = self._process.stdout.readline().strip() if self._process.stdout is not None else ""
            if not port:
                self._process.wait(GRACE_SECONDS)
                self.check()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.base = f"http://127.0.0.1:{port}"
        return self

    def close(self) -> dict[str, int]:
        """Stop the site, and return the number of requests for each path."""
        output, _ = self._process.communicate(timeout=GRACE_SECONDS)
        return msgspec.json.decode(output, type=dict[str, int])


def _environment(url: str) -> dict[str, str]:
    """Return this process's environment without other apps' settings, and with the broker's URL."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
    return {**environment, tasks.BROKER: url}
