"""What a stage stands on: a broker with its backend, how it can be taken away, and its own record of what was written.

The tests look at messages and outcomes through the ports. Two things the ports cannot tell: how often a final outcome
was written (a second time would leave no trace in the result), and what it is like when the broker is not there.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from tests.patience import PATIENCE
from tests.rabbitmq_server import RabbitServer, running_rabbit
from tests.redis_server import RedisServer

__all__ = ["ALL_GROUNDS", "GROUNDS", "Ground", "RabbitGround", "RabbitRedisGround", "RedisGround", "SQLiteGround"]


class Ground(ABC):
    """A broker and a backend, for one stage."""

    absences: ClassVar[tuple[str, ...]]  # the ways in which it can be away

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}  # of all processes that use it

    @abstractmethod
    def record(self) -> None:
        """From now on note each time that a final outcome is written."""

    @abstractmethod
    def recorded(self) -> dict[str, int]:
        """Return how often a final outcome was written, by id."""

    @abstractmethod
    @contextmanager
    def away(self, how: str) -> Iterator[None]:
        """Take it away for as long as a block lasts, in one of the ways of `absences`."""

    @abstractmethod
    def restart(self) -> None:
        """Kill what serves it, and start that again with its data."""

    @abstractmethod
    def end(self) -> None:
        """Leave nothing behind."""


# --- SQLite -------------------------------------------------------------------------------------------

RECORDS = """
CREATE TABLE recorded (id TEXT);
CREATE TRIGGER recorded_first AFTER INSERT ON outcomes WHEN NEW.final BEGIN INSERT INTO recorded VALUES (NEW.id); END;
CREATE TRIGGER recorded_again AFTER UPDATE ON outcomes WHEN NEW.final BEGIN INSERT INTO recorded VALUES (NEW.id); END;
"""

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("COMMIT")
"""


class SQLiteGround(Ground):
    """The file `celeriac.db`, which is away while another process has locked it. Triggers keep the record."""

    absences = ("locked",)

    @property
    def path(self) -> Path:
        return self.folder / "celeriac.db"

    def record(self) -> None:
        connection = sqlite3.connect(self.path, timeout=PATIENCE)
        connection.executescript(RECORDS)
        connection.close()

    def recorded(self) -> dict[str, int]:
        return dict(self.rows("SELECT id, count(*) FROM recorded GROUP BY id"))

    def rows(self, query: str) -> list[Any]:
        """Ask the database itself."""
        connection = sqlite3.connect(self.path, timeout=PATIENCE)
        found = connection.execute(query).fetchall()
        connection.close()
        return found

    @contextmanager
    def away(self, how: str) -> Iterator[None]:
        command = [sys.executable, "-c", LOCK, str(self.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == "locked\n"
            try:
                yield
            finally:
                process.stdin.close()
                process.wait(PATIENCE)

    def restart(self) -> None:
        """Do nothing: there is no server."""

    def end(self) -> None:
        """Do nothing: the folder goes as a whole."""


# --- Redis --------------------------------------------------------------------------------------------


class RedisGround(Ground):
    """A `redis-server` of the stage's own, that has on disk what it has answered for (`appendfsync always`).

    It is away while it is `down` (killed with SIGKILL, then started with its data) or `frozen` (SIGSTOP). Its
    append-only file holds every write that had an effect: that is the record.
    """

    absences = ("down", "frozen")
    ARGUMENTS = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        data = folder / "redis"
        data.mkdir()
        self.server = RedisServer(data, *self.ARGUMENTS)
        self.environment = {"CELERIAC_BROKER_URL": self.server.url}
        self.log = data / "appendonlydir" / "appendonly.aof.1.incr.aof"
        self._from = 0  # where the record begins, in the log
        self.outages: list[tuple[float, float]] = []  # when the server was away, since the epoch

    def record(self) -> None:
        self._from = self.log.stat().st_size

    def recorded(self) -> dict[str, int]:
        outcomes = b"celeriac:outcome:"
        return Counter(
            key.removeprefix(outcomes).decode()
            for command, key, *values in self.writes()
            if command.upper() == b"SET" and key.startswith(outcomes) and values[0].startswith(b"1")
        )

    def writes(self) -> Iterator[list[bytes]]:
        """Yield the commands that have changed something since `record`."""
        import hiredis

        reader = hiredis.Reader()
        with self.log.open("rb") as log:
            log.seek(self._from)
            while data := log.read(1 << 20):
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    yield command if len(command) > 2 else [*command, b"", b""]

    @contextmanager
    def away(self, how: str) -> Iterator[None]:
        begun = time.time()
        if how == "frozen":
            self.server.send(signal.SIGSTOP)
        else:
            self.server.kill()
        try:
            yield
        finally:
            if how == "frozen":
                self.server.send(signal.SIGCONT)
            else:
                self.server.start()
            self.outages.append((begun, time.time()))

    def restart(self) -> None:
        with self.away("down"):
            pass

    def end(self) -> None:
        self.server.end()


# --- RabbitMQ -----------------------------------------------------------------------------------------


class RabbitGround(SQLiteGround):
    """A vhost of one `rabbitmq-server` for all stages, which takes seconds to start; outcomes are in SQLite.

    It is away while it is `down` (killed with SIGKILL, then started with its data) or `frozen` (SIGSTOP).
    """

    absences = ("down", "frozen")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = _rabbit()
        self.vhost = self.server.vhost()
        self.environment = {"CELERIAC_BROKER_URL": self.server.url(self.vhost),
                            "CELERIAC_RESULT_BACKEND": f"sqlite:///{self.path}"}  # fmt: skip
        self.outages: list[tuple[float, float]] = []  # when the server was down, since the epoch

    @contextmanager
    def away(self, how: str) -> Iterator[None]:
        if how == "frozen":
            self.server.send(signal.SIGSTOP)
            try:
                yield
            finally:
                self.server.send(signal.SIGCONT)
            return
        begun = time.time()
        self.server.kill()
        try:
            yield
        finally:
            self.server.start()
            self.outages.append((begun, time.time()))

    def restart(self) -> None:
        with self.away("down"):
            pass

    def end(self) -> None:
        self.server.drop(self.vhost)


class RabbitRedisGround(RabbitGround):
    """The same, with outcomes in a Redis of the stage's own: two servers, and connections to both."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.redis = RedisGround(folder)
        self.environment["CELERIAC_RESULT_BACKEND"] = self.redis.server.url

    def record(self) -> None:
        self.redis.record()

    def recorded(self) -> dict[str, int]:
        return self.redis.recorded()

    def end(self) -> None:
        self.redis.end()
        super().end()


@cache
def _rabbit() -> RabbitServer:
    return shared_servers.enter_context(running_rabbit())


shared_servers = ExitStack()
"""What all stages share; ended with the tests, by `tests/conftest.py`."""


GROUNDS: dict[str, type[Ground]] = {"sqlite": SQLiteGround, "redis": RedisGround, "rabbitmq": RabbitGround}
"""Those that every promise is tested on."""

ALL_GROUNDS: dict[str, type[Ground]] = {**GROUNDS, "rabbitmq+redis": RabbitRedisGround}
"""Those that workflows are tested on."""
