"""The places where bytes come in, on each server: each writes what the fuzzer makes as an enemy would."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celeriac.brokers.queue_server.journal import CHANNEL as JOURNAL
from celeriac.brokers.queue_server.presence import CHANNEL as ROLL_CALLS
from celeriac.brokers.sqlite.rows import seq_of
from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.frames import Publication, properties
from celeriac.model.message import new_id
from tests.patience import PATIENCE
from tests.rabbitmq_server import Place
from tests.redis_server import RedisServer

__all__ = ["OnRabbitMQ", "OnRedis", "OnSQLite", "Server"]


class Server(ABC):
    """A broker and backend that can be written to behind Celeriac's back."""

    url: str

    def close(self) -> None:  # noqa: B027 - not all have something to close
        """Leave nothing open."""

    @abstractmethod
    def message(self, data: bytes) -> None:
        """Put bytes into the queue `default`, as a ready message."""

    @abstractmethod
    def outcome(self, id: str, data: bytes) -> None:
        """Store bytes as the final outcome of a task."""

    @abstractmethod
    def workflow(self, id: str, data: bytes, node: bytes | int) -> None:
        """Store bytes as the tree of a workflow, with a pending node."""

    @abstractmethod
    def worker(self, data: bytes) -> None:
        """Store bytes as the info of a live worker."""


class OnSQLite(Server):
    """A database file. Values are stored with their type: SQLite takes any in any column."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fuzz.db"
        self.url = f"sqlite:///{self.path}"
        self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)

    def message(self, data: bytes, queue: str = "default") -> None:
        id = new_id()
        with self._transaction():
            self._connection.execute("INSERT OR IGNORE INTO lines (queue, lane) VALUES (?, 'plain')", (queue,))
            find = "SELECT line FROM lines WHERE queue = ? AND lane = 'plain'"
            ((line,),) = self._connection.execute(find, (queue,))
            query = "INSERT INTO ready (line, rank, seq, deliveries, message) VALUES (?, 4, ?, 0, ?)"
            self._connection.execute(query, (line, seq_of(id), data))

    def outcome(self, id: str, data: bytes) -> None:
        with self._transaction():
            query = "INSERT INTO outcomes (id, state, final, stored_at, outcome) VALUES (?, 'SUCCESS', 1, 2e9, ?)"
            self._connection.execute(query, (id, data))

    def workflow(self, id: str, data: bytes, node: bytes | int) -> None:
        with self._transaction():
            self._connection.execute("INSERT INTO trees (id, tree) VALUES (?, ?)", (id, data))
            self._connection.execute("INSERT INTO workflows (id, left, touched_at) VALUES (?, 2, 2e9)", (id,))
            self._connection.execute("INSERT INTO dues (workflow, node, free_at) VALUES (?, ?, 0)", (id, node))

    def worker(self, data: bytes) -> None:
        with self._transaction():
            self._connection.execute(
                "INSERT INTO leases (info, renewed_at, expires_at) VALUES (?, 2e9, 4e9)", (data,)
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        yield
        self._connection.execute("COMMIT")


class OnRedis(Server):
    """A Redis server."""

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url
        self._server = server

    def message(self, data: bytes) -> None:
        id = new_id()
        self._server.ask("HSET", "celeriac:{default}:messages", id, b"p5l" + data)
        self._server.ask("RPUSH", "celeriac:{default}:ready:p5", id)
        self._server.ask("SADD", "celeriac:queues", "default")
        self._server.ask("SADD", "celeriac:ready:p", "default")

    def outcome(self, id: str, data: bytes) -> None:
        self._server.ask("SET", f"celeriac:outcome:{id}", b"1" + data)
        self._server.ask("LPUSH", "celeriac:recent", id)
        self._server.ask("PUBLISH", "celeriac:done:7", data)

    def workflow(self, id: str, data: bytes, node: bytes | int) -> None:
        self._server.ask("HSET", f"celeriac:workflow:{id}", "tree", data, "left", "2")
        self._server.ask("ZADD", "celeriac:dues", "0", f"{id}:{node}" if isinstance(node, int) else node)

    def worker(self, data: bytes) -> None:
        name = f"fuzz-{new_id()}"
        self._server.ask("ZADD", "celeriac:leases", "4e9", name)
        self._server.ask("HSET", "celeriac:workers", name, data)


class OnRabbitMQ(Server):
    """A vhost of a RabbitMQ server, with results over `rpc://`: in the reply queue of a caller are its results."""

    def __init__(self, place: Place) -> None:
        self.url = place.url
        self.reply_to = ""  # of the app that reads results
        self._server = place.server()
        self._connected: Connection | None = None

    def message(self, data: bytes) -> None:
        self._send("", "default", b"\0" + data)

    def outcome(self, id: str, data: bytes) -> None:
        self._send("", self.reply_to, data)

    def workflow(self, id: str, data: bytes, node: bytes | int) -> None:
        raise NotImplementedError("rpc:// keeps no workflows")

    def worker(self, data: bytes) -> None:
        """Send bytes as a roll call, as an answer to one, and as an entry of the journal, which workers read."""
        self._send("celeriac.channels", ROLL_CALLS, data)
        self._send("celeriac.channels", JOURNAL, data)

    def _send(self, exchange: str, key: str, body: bytes) -> None:
        if self._connected is None:
            self._connected = self._server.connect_blocking(PATIENCE)
        self._connected.publish([Publication(exchange, key, properties(), body)], PATIENCE)

    def close(self) -> None:
        """Close the connection that writes."""
        if self._connected is not None:
            self._connected.close()
