"""Where result stores keep outcomes: each writes what the fuzzer makes, as a fault or an enemy would."""

from __future__ import annotations

import socket
import struct
from abc import ABC, abstractmethod
from random import Random
from typing import Any

import sqlalchemy
from pymongo import MongoClient

from celeriac.backends.key_value import safe
from celeriac.drivers.sql.address import Address
from celeriac.drivers.sql.schema import Tables
from tests.patience import PATIENCE

__all__ = ["ResultSurface", "ResultsInMemcached", "ResultsInMongoDB", "ResultsInSQL", "ResultsInTyrant"]

LATE = 4_000_000_000_000_000  # microseconds


class ResultSurface(ABC):
    """A result backend that can be written to behind its back."""

    url: str

    @abstractmethod
    def outcome(self, id: str, data: bytes) -> None:
        """Store bytes as the final outcome of a task."""

    def workflow(self, id: str, data: bytes, node: int) -> None:  # noqa: B027 - not all keep any
        """Store bytes as the tree of a workflow, with a pending node, where workflows are kept."""

    def close(self) -> None:  # noqa: B027 - not all have something to close
        """Leave nothing open."""


class ResultsInSQL(ResultSurface):
    """`db+…`: rows of the tables."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = sqlalchemy.create_engine(Address(url).url)
        self._tables = Tables(None, "celeriac_")

    def outcome(self, id: str, data: bytes) -> None:
        self._insert(self._tables.outcomes, id=id, state="SUCCESS", is_final=1, stored_at=LATE, outcome=data)

    def workflow(self, id: str, data: bytes, node: int) -> None:
        tables = self._tables
        self._insert(tables.trees, id=id, tree=data)
        self._insert(tables.workflows, id=id, remaining=2, touched_at=LATE)
        self._insert(tables.pending, workflow=id, node=node, free_at=0, workflow_id=data[:50] if node else None)

    def _insert(self, table: Any, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(table.insert().values(**values))

    def close(self) -> None:
        self._engine.dispose()


class ResultsInMongoDB(ResultSurface):
    """`mongodb://`: documents, whose fields may be of any type."""

    def __init__(self, url: str, random: Random) -> None:
        self.url = url
        self._random = random
        self._client: MongoClient[dict[str, Any]] = MongoClient(url)
        self._database = self._client.get_default_database()

    def outcome(self, id: str, data: bytes) -> None:
        value = self._random.choice((data, data, data, data.decode(errors="replace"), None, 5, [data], {"a": data}))
        document = {"_id": id, "outcome": value, "final": True, "state": "SUCCESS", "stored_at": 2e9}
        if self._random.random() < 0.2:
            document[self._random.choice(("state", "stored_at"))] = value
        self._database["celeriac.outcomes"].insert_one(document)

    def workflow(self, id: str, data: bytes, node: int) -> None:
        odd = self._random.choice((0.0, 0.0, 2e9, -1, None, "x", data, {}))
        counters = {"_id": id, "left": 2, "missing": {}, "ended": {}, "pending": {str(node): odd}, "additions": 0,
                    "tree_at": 2e9, "next_at": 0.0}  # fmt: skip
        if self._random.random() < 0.3:
            counters[self._random.choice([*counters][1:-1])] = odd
        self._database["celeriac.trees"].insert_one({"_id": id, "tree": data})
        self._database["celeriac.workflows"].insert_one(counters)

    def close(self) -> None:
        self._client.close()


class ResultsInMemcached(ResultSurface):
    """`memcached://`: values, of any bytes and flags."""

    def __init__(self, port: int) -> None:
        self.url = f"memcached://127.0.0.1:{port}"
        self._connection = socket.create_connection(("127.0.0.1", port), PATIENCE)

    def outcome(self, id: str, data: bytes) -> None:
        data = data[:500_000]
        key = f"celeriac:f:{safe(id)}".encode()
        self._connection.sendall(b"set %b %d 0 %d\r\n%b\r\n" % (key, len(data) % 7, len(data), data))
        assert self._connection.recv(100) == b"STORED\r\n"

    def close(self) -> None:
        self._connection.close()


class ResultsInTyrant(ResultSurface):
    """`tyrant://`: values, most of which begin with the instant of their end."""

    def __init__(self, port: int, random: Random) -> None:
        self.url = f"tyrant://127.0.0.1:{port}"
        self._random = random
        self._connection = socket.create_connection(("127.0.0.1", port), PATIENCE)

    def outcome(self, id: str, data: bytes) -> None:
        end = self._random.choice((4e9, 4e9, 4e9, float("inf"), float("nan"), -1.0))
        value = data if self._random.random() < 0.1 else struct.pack(">d", end) + data
        key = f"celeriac:f:{safe(id)}".encode()
        self._connection.sendall(b"\xc8\x10" + struct.pack(">II", len(key), len(value)) + key + value)
        assert self._connection.recv(1) == b"\0"

    def close(self) -> None:
        self._connection.close()
