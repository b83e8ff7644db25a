"""What a stage stands on: a broker with its backend, how it can be taken away, and its own record of what was written.

The tests look at messages and outcomes through the ports. Two things the ports cannot tell: how often a final outcome
was written (a second time would leave no trace in the result), and what it is like when the broker is not there.

Some grounds are two servers (`PairGround`): the outcomes are in a store of `stores.py`, or in another ground's server.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import shared_servers
from tests.hub_server import HubServer
from tests.patience import PATIENCE
from tests.promises.stores import MariaDBStore, MongoStore, OnServer, PostgreSQLStore, Store
from tests.redis_server import RedisServer

__all__ = [
    "ALL_GROUNDS", "GROUNDS", "STORES", "ActiveMQGround", "Amqp10Ground", "Ground", "HubGround", "PairGround",
    "RabbitClusterGround", "RabbitGround", "RabbitRedisGround", "RedisGround", "SQLiteGround", "SQLiteMongoGround",
]  # fmt: skip


class Ground(Store):
    """A broker and a backend, for one stage."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.environment: dict[str, str] = {}  # of all processes that use it

    @abstractmethod
    def restart(self) -> None:
        """Kill what serves it, and start that again with its data."""


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

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"sqlite:///{self.path}"

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


class RedisGround(OnServer, Ground):
    """A `redis-server` of the stage's own, that has on disk what it has answered for (`appendfsync always`).

    It is away while it is `down` (killed with SIGKILL, then started with its data) or `frozen` (SIGSTOP). Its
    append-only file holds every write that had an effect: that is the record.
    """

    ARGUMENTS = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        data = folder / "redis"
        data.mkdir()
        self.server = RedisServer(data, *self.ARGUMENTS)
        self.url = self.server.url
        self.environment = {"CELERIAC_BROKER_URL": self.url}
        self.log = data / "appendonlydir" / "appendonly.aof.1.incr.aof"
        self._from = 0  # where the record begins, in the log

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


# --- The hub ------------------------------------------------------------------------------------------


class HubGround(OnServer, SQLiteGround):
    """A `celeriac hub` of the stage's own, on the file of a SQLite ground.

    It is away while it is `down` (killed with SIGKILL, then started with its file) or `frozen` (SIGSTOP).
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = HubServer(folder)
        self.url = self.server.url
        self.environment = {"CELERIAC_BROKER_URL": self.url}


# --- RabbitMQ -----------------------------------------------------------------------------------------


class RabbitGround(OnServer, SQLiteGround):
    """A vhost of one `rabbitmq-server` for all stages, which takes seconds to start; outcomes are in SQLite.

    It is away while it is `down` (killed with SIGKILL, then started with its data) or `frozen` (SIGSTOP).
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = shared_servers.rabbit()
        self.vhost = self.server.vhost()
        self.environment = {"CELERIAC_BROKER_URL": self.server.url(self.vhost),
                            "CELERIAC_RESULT_BACKEND": self.url}  # fmt: skip

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

    def end(self) -> None:
        self.server.drop(self.vhost)


class Amqp10Ground(RabbitGround):
    """RabbitMQ by AMQP 1.0; outcomes are in SQLite."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment["CELERIAC_BROKER_URL"] = self.server.url(self.vhost).replace("amqp://", "amqp10://")


class RabbitClusterGround(OnServer, SQLiteGround):
    """Three nodes of RabbitMQ, for all stages; outcomes are in SQLite. One node is away at a time: the next one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cluster = shared_servers.rabbit_cluster()
        self.vhost = self.cluster.nodes[0].vhost()
        self.next = 0  # the number of the node that is taken away next
        self._is_split = False  # after a node was frozen, the others may not see it for long; their queues go on
        self.environment = {"CELERIAC_BROKER_URL": self.cluster.url(self.vhost),
                            "CELERIAC_RESULT_BACKEND": self.url}  # fmt: skip

    @contextmanager
    def away(self, how: str) -> Iterator[None]:
        node = self.cluster.nodes[self.next]
        self.next = (self.next + 1) % len(self.cluster.nodes)
        begun = time.time()
        if how == "frozen":
            node.send(signal.SIGSTOP)
        else:
            node.kill()
        try:
            yield
        finally:
            if how == "frozen":
                node.send(signal.SIGCONT)
                self._is_split = True
            else:
                node.start()
                self.cluster.wait()
            self.outages.append((begun, time.time()))

    def end(self) -> None:
        if self._is_split:
            self.cluster.end()
            shared_servers.rabbit_cluster.cache_clear()
        else:
            self.cluster.nodes[0].drop(self.vhost)


# --- ActiveMQ -----------------------------------------------------------------------------------------


class ActiveMQGround(OnServer, SQLiteGround):
    """One `activemq` for all stages, each with names of its own; outcomes are in SQLite.

    It is away while it is `down` (killed with SIGKILL, then started with its data) or `frozen` (SIGSTOP).
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = shared_servers.activemq()
        self.environment = {"CELERIAC_BROKER_URL": self.server.url(), "CELERIAC_RESULT_BACKEND": self.url}

    def end(self) -> None:
        """Do nothing: the server is for all stages."""


# --- A broker, and outcomes elsewhere -----------------------------------------------------------------


class PairGround(Ground):
    """Outcomes in another server than the broker's, which is away on its own: two servers, and connections to both."""

    store: Store

    def put(self, store: Store) -> None:
        """Keep the outcomes in a store."""
        self.store = store
        self.environment["CELERIAC_RESULT_BACKEND"] = self.url = store.url

    def record(self) -> None:
        self.store.record()

    def recorded(self) -> dict[str, int]:
        return self.store.recorded()

    def end(self) -> None:
        self.store.end()
        super().end()


class RabbitRedisGround(PairGround, RabbitGround):
    """RabbitMQ, with outcomes in a Redis of the stage's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.put(RedisGround(folder))


class RabbitPostgreSQLGround(PairGround, RabbitGround):
    """RabbitMQ, with outcomes in PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.put(PostgreSQLStore())


class RabbitMongoGround(PairGround, RabbitGround):
    """RabbitMQ, with outcomes in MongoDB."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.put(MongoStore())


class RabbitRedisDelaysGround(RabbitRedisGround):
    """RabbitMQ, with outcomes and all that waits in Redis."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment["CELERIAC_BROKER_DELAYS"] = "store"


class RabbitPostgreSQLDelaysGround(RabbitPostgreSQLGround):
    """RabbitMQ, with outcomes and all that waits in PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment["CELERIAC_BROKER_DELAYS"] = "store"


class RabbitMongoDelaysGround(RabbitMongoGround):
    """RabbitMQ, with outcomes and all that waits in MongoDB."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.environment["CELERIAC_BROKER_DELAYS"] = "store"


class RedisPostgreSQLGround(PairGround, RedisGround):
    """Redis, with outcomes in PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.put(PostgreSQLStore())


class RedisMariaDBGround(PairGround, RedisGround):
    """Redis, with outcomes in MariaDB."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.put(MariaDBStore())


class SQLiteMongoGround(PairGround, SQLiteGround):
    """SQLite, with outcomes in MongoDB."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.put(MongoStore())


GROUNDS: dict[str, type[Ground]] = {"sqlite": SQLiteGround, "redis": RedisGround, "rabbitmq": RabbitGround,
                                   "hub": HubGround}  # fmt: skip
"""Those that every promise is tested on."""

STORES: dict[str, type[PairGround]] = {
    "rabbitmq+postgresql": RabbitPostgreSQLGround, "redis+mariadb": RedisMariaDBGround,
    "sqlite+mongodb": SQLiteMongoGround,
}  # fmt: skip
"""Those that are tested where it matters which server keeps the outcomes."""

ALL_GROUNDS: dict[str, type[Ground]] = {
    **GROUNDS, "rabbitmq+redis": RabbitRedisGround, "rabbitmq+mongodb": RabbitMongoGround,
    "rabbitmq+redis, delays": RabbitRedisDelaysGround, "rabbitmq+postgresql, delays": RabbitPostgreSQLDelaysGround,
    "rabbitmq+mongodb, delays": RabbitMongoDelaysGround,
    "redis+postgresql": RedisPostgreSQLGround, "rabbitmq+cluster": RabbitClusterGround, "activemq": ActiveMQGround,
    "rabbitmq+amqp10": Amqp10Ground, **STORES,
}  # fmt: skip
"""Those, and others that single promises are tested on."""
