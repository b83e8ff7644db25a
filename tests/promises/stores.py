"""Where the outcomes of a ground are, how that can be taken away, and its own record of what was written.

A `Store` is what a result backend speaks to. The grounds of `grounds.py` are stores too: of those whose broker keeps
the outcomes. Here are the servers that can only keep outcomes, each beside a broker.
"""

from __future__ import annotations

import gc
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from bson import Timestamp

from tests import shared_servers
from tests.mongodb_server import MongoServer, running_mongodb
from tests.sql_server import SQLServer

__all__ = ["MariaDBStore", "MongoStore", "OnServer", "PostgreSQLStore", "ServerStore", "Store"]


class Store(ABC):
    """Keeps outcomes, for one stage."""

    absences: ClassVar[tuple[str, ...]]  # the ways in which it can be away
    url: str  # of the result backend

    def __init__(self) -> None:
        self.outages: list[tuple[float, float]] = []  # when its server was away, since the epoch

    @abstractmethod
    def record(self) -> None:
        """From now on note each time that a final outcome is written."""

    @abstractmethod
    def recorded(self) -> dict[str, int]:
        """Return how often a final outcome was written, by id."""

    @abstractmethod
    def away(self, how: str) -> AbstractContextManager[None]:
        """Take it away for as long as a block lasts, in one of the ways of `absences`."""

    @abstractmethod
    def end(self) -> None:
        """Leave nothing behind."""


class Served(Protocol):
    """A server that is taken away."""

    def start(self) -> None: ...

    def send(self, number: int) -> None: ...

    def kill(self) -> None: ...

    def end(self) -> None: ...


class OnServer(Store):
    """In a server that is `down` (killed with SIGKILL, then started with its data) or `frozen` (SIGSTOP)."""

    absences = ("down", "frozen")
    server: Served

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
        """Kill the server, and start it again with its data."""
        with self.away("down"):
            pass

    def end(self) -> None:
        self.server.end()


class ServerStore(OnServer):
    """Outcomes alone, in a server."""

    @abstractmethod
    def stored_at(self) -> dict[str, float]:
        """Return when a worker began to store the outcome that is there, since the epoch, by id."""


# --- SQL ----------------------------------------------------------------------------------------------


class SQLStore(ServerStore):
    """A database of one server for all stages. Triggers keep the record."""

    TRIGGERS: ClassVar[tuple[str, ...]]
    server: SQLServer

    def __init__(self) -> None:
        super().__init__()
        self.database = self.server.database()
        self.url = self.server.url(self.database)

    def record(self) -> None:
        for statement in self.TRIGGERS:
            self.server.ask(statement, self.database)

    def recorded(self) -> dict[str, int]:
        return dict(self.server.ask("SELECT id, count(*) FROM recorded GROUP BY id", self.database))

    def stored_at(self) -> dict[str, float]:
        found = self.server.ask("SELECT id, stored_at FROM celeriac_outcomes", self.database)
        return {id: micros / 1_000_000 for id, micros in found}

    def end(self) -> None:
        """Do nothing: the database goes with the server."""


class PostgreSQLStore(SQLStore):
    """In PostgreSQL."""

    TRIGGERS = (
        "CREATE TABLE recorded (id text)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO recorded VALUES (NEW.id); RETURN NULL; END'",
        "CREATE TRIGGER recorded AFTER INSERT OR UPDATE ON celeriac_outcomes FOR EACH ROW WHEN (NEW.is_final = 1) "
        "EXECUTE FUNCTION note()",
    )

    def __init__(self) -> None:
        self.server = shared_servers.postgresql()
        super().__init__()


class MariaDBStore(SQLStore):
    """In MariaDB."""

    TRIGGERS = (
        "CREATE TABLE recorded (id VARCHAR(255) CHARACTER SET ascii)",
        *(f"CREATE TRIGGER recorded_{when} AFTER {when} ON celeriac_outcomes FOR EACH ROW "
          "INSERT INTO recorded SELECT NEW.id FROM DUAL WHERE NEW.is_final = 1" for when in ("INSERT", "UPDATE")),
    )  # fmt: skip

    def __init__(self) -> None:
        self.server = shared_servers.mariadb()
        super().__init__()


# --- MongoDB ------------------------------------------------------------------------------------------


class MongoStore(ServerStore):
    """A server of the stage's own, that has on disk what it has answered for.

    Its oplog holds every write that had an effect, in order: that is the record.
    """

    NAMESPACE = "tests.celeriac.outcomes"
    ARGUMENTS = ("--sync-on-commit", "--oplog-max-entries", "10000000")

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        folder = tempfile.TemporaryDirectory(prefix="mongo", ignore_cleanup_errors=True)
        data = Path(self._stack.enter_context(folder))
        self.server: MongoServer = self._stack.enter_context(running_mongodb(data, *self.ARGUMENTS))
        self.url = self.server.url("tests")
        self._seen = Timestamp(0, 0)  # in the oplog
        self._final: dict[Any, bool] = {}  # by id: whether the outcome that is stored is
        self._recorded: Counter[str] = Counter()

    def record(self) -> None:
        self.recorded()
        self._recorded.clear()

    def recorded(self) -> dict[str, int]:
        with self.server.client() as client:
            query = {"ns": self.NAMESPACE, "ts": {"$gt": self._seen}}
            for entry in client["local"]["oplog.rs"].find(query).sort("ts", 1):
                self._read(entry)
                self._seen = entry["ts"]
        return dict(self._recorded)

    def _read(self, entry: dict[str, Any]) -> None:
        """Count an insertion or a change if the outcome is final after it."""
        id = entry["o2"]["_id"] if "o2" in entry else entry["o"]["_id"]
        if entry["op"] == "d":
            del self._final[id]
            return
        written = entry["o"]["diff"]["updatedFields"] if "diff" in entry["o"] else entry["o"]
        self._final[id] = written.get("final", self._final.get(id, False))
        if self._final[id]:
            self._recorded[id] += 1

    def stored_at(self) -> dict[str, float]:
        with self.server.client() as client:
            found = client["tests"]["celeriac.outcomes"].find({}, {"stored_at": 1})
            return {document["_id"]: document["stored_at"] for document in found}

    def end(self) -> None:
        self._stack.close()
        gc.collect()  # see `LEFT` in tests/mongodb_server.py
