"""What the SQL servers of the tests have in common: a process in a temporary folder, run by an unprivileged user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.server_process import ServerProcess, missing
from tests.signalling import send

__all__ = ["Ask", "SQLServer"]

Ask = Callable[[str], list[tuple[Any, ...]]]


class SQLServer(ServerProcess):
    """A server that can be stopped, killed, frozen and started again, with a new database for each test."""

    user: str  # who runs it, if the tests are run by root

    def __init__(self, folder: Path, program: str, advice: str) -> None:
        if not os.path.exists(program):
            missing(advice)
        self.folder = folder
        self.program = program
        self.port = free_port()
        self._names = count(1)
        self._shared = ""
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._account = {"user": self.user, "group": self.user, "extra_groups": []}
            shutil.chown(folder, self.user, self.user)
        self.prepare()
        self.start()

    @abstractmethod
    def prepare(self) -> None:
        """Make its data."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line that runs it."""

    @abstractmethod
    def administrator(self, database: str | None = None) -> AbstractContextManager[Ask]:
        """Give what carries out statements as administrator, on one connection. Raises if it cannot be reached."""

    def ask(self, statement: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Carry out a statement as administrator, on a connection of its own."""
        with self.administrator(database) as ask:
            return ask(statement)

    @abstractmethod
    def url(self, database: str, user: str | None = None, password: str = "") -> str:
        """Return the URL of the result backend in a database."""

    def database(self) -> str:
        """Return the name of a new, empty database."""
        name = f"test_{os.getpid()}_{next(self._names)}"
        self.ask(f"CREATE DATABASE {name}")
        return name

    def emptied(self) -> str:
        """Return the URL of one database that all tests share; its tables are empty."""
        if not self._shared:
            self._shared = self.database()
        tables = f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{self.schema}'"
        with self.administrator(self._shared) as ask:
            for name in {name for (name,) in ask(tables) if name.startswith("celeriac_")} - {"celeriac_version"}:
                ask(f"DELETE FROM {name}")
        return self.url(self._shared)

    @property
    def schema(self) -> str:
        """The schema of tables in the shared database."""
        return self._shared

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        log = self.folder / "server.log"
        with log.open("ab") as file:
            self.process = subprocess.Popen(self.command(), cwd=self.folder, env=self.environment(), stdout=file,
                                            stderr=file, stdin=subprocess.DEVNULL, **self._account)  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(Exception):
                self.ask("SELECT 1")
                return
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{self.program} did not start"
            time.sleep(0.02)

    def run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=PATIENCE, check=False, **self._account,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout.decode()

    def environment(self) -> dict[str, str]:
        # MariaDB deletes what it finds of temporary tables when it starts, also those of others.
        return {"HOME": str(self.folder), "TMPDIR": str(self.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG": "C.UTF-8"}  # fmt: skip

    def _processes(self) -> list[psutil.Process]:
        assert self.process is not None
        found = psutil.Process(self.process.pid)
        return [found, *found.children(recursive=True)]

    def send(self, number: int) -> None:
        for process in self._processes():
            try:
                send(process.pid, number)
            except ProcessLookupError:
                continue

    def stop(self) -> None:
        """Stop it in order; its clients are cut off."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT if self.user == "postgres" else signal.SIGTERM)
        self.process.wait(PATIENCE)
        self.process = None

    def restored(self) -> None:
        """Have it run again, whatever a test has done to it."""
        if self.process is None:
            self.start()
        else:
            self.thaw()
