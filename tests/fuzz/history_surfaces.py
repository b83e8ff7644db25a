"""Where a history keeps bytes, on each store: each writes what the fuzzer makes, as another version would."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from celeriac.model.message import new_id
from tests.redis_server import RedisServer

__all__ = ["KINDS", "HistoryInMongoDB", "HistoryInRedis", "HistoryInSQL", "HistoryInSQLite", "HistorySurface"]

AT = 1_800_000_000
KINDS = ("sums", "unfolded", "name", "attempt", "signature", "event", "worker", "outcome")


class HistorySurface(ABC):
    """A result backend that keeps a history, and can be written to behind its back."""

    url: str

    @abstractmethod
    def put(self, kind: str, data: bytes) -> None:
        """Store bytes in a place of some kind."""

    @abstractmethod
    def clear(self) -> None:
        """Remove all that is stored. Nobody uses it meanwhile."""


class OnTables(HistorySurface):
    """Tables in a SQLite file, where any column takes anything."""

    path: Path
    STATEMENTS: dict[str, str]

    def put(self, kind: str, data: bytes) -> None:
        with closing(sqlite3.connect(self.path, timeout=60)) as connection, connection:
            connection.execute(self.STATEMENTS[kind], {"id": new_id(), "data": data, "at": AT})

    def clear(self) -> None:
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()


class HistoryInSQLite(OnTables):
    """`sqlite:///`."""

    SUMS = "INSERT INTO history_sums VALUES (10, :at, {lease}, :id, 'q', 'SUCCESS', '', '', :data)"
    STATEMENTS = {
        "sums": SUMS.format(lease="''"), "unfolded": SUMS.format(lease=":id"),
        "name": "INSERT INTO history_sums VALUES (10, :at, '', :data, 'q', :id, '', '', x'')",
        "attempt": "INSERT INTO history_attempts VALUES (:at, :id, 1, 0, 't', 's', :data)",
        "signature": "INSERT INTO history_signatures (signature, last, value) VALUES (:id, :at, :data)",
        "event": "INSERT INTO history_events VALUES (:id, :at, 'k', :id, :data)",
        "worker": "INSERT OR REPLACE INTO history_workers VALUES (:data, 0, 0, 0)",
        "outcome": "INSERT INTO outcomes (id, outcome, state, final, stored_at) VALUES (:id, :data, 'SUCCESS', 1, 2e9)",
    }  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.path = folder / "celeriac.db"
        self.url = f"sqlite:///{self.path}"


class HistoryInSQL(OnTables):
    """`db+sqlite:///`: the tables of every SQL database."""

    STATEMENTS = {
        "sums": """INSERT INTO celeriac_history_sums VALUES (:id, 10, :at,
                   '[10,1800000000,"","t","q","' || :id || '"]', :data)""",
        "unfolded": """INSERT INTO celeriac_history_sums VALUES (:id, -1, :at,
                       '[10,1800000000,"' || :id || '","t","q","SUCCESS"]', :data)""",
        "name": "INSERT INTO celeriac_history_sums VALUES (:id, -1, :at, :data, x'')",
        "attempt": "INSERT INTO celeriac_history_attempts VALUES "
                   "(printf('%018d!%s!%016d', :at * 1000000, :id, 1), :id, 't', 's', 0, :data)",
        "signature": "INSERT INTO celeriac_history_signatures VALUES (:id, :at * 1000000, :data, :data)",
        "event": "INSERT INTO celeriac_history_events VALUES (:id, :at * 1000000, 'k', :id, :data)",
        "worker": "INSERT INTO celeriac_history_workers VALUES (:id, :data, 0, 0, 0)",
        "outcome": "INSERT INTO celeriac_outcomes VALUES (:id, 'SUCCESS', 1, 2000000000000000, :data)",
    }  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.path = folder / "results.db"
        self.url = f"db+sqlite:///{self.path}"


class HistoryInRedis(HistorySurface):
    """`redis://`."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.url = server.url

    def put(self, kind: str, data: bytes) -> None:
        id, ask, prefix = new_id(), self.server.ask, "celeriac:history"
        if kind == "sums":
            ask("HSET", f"{prefix}:sums:10:{AT}", f'[10,{AT},"","t","q","{id}"]', data)
            ask("ZADD", f"{prefix}:slots:10", AT, AT)
        elif kind in ("unfolded", "name"):
            ask("HSET", f"{prefix}:unfolded", data if kind == "name" else f'[10,{AT},"{id}","t","q","SUCCESS"]', data)
        elif kind == "attempt":
            member = f"{id} 1 {float(AT)}"
            ask("HSET", f"{prefix}:attempts", member, data)
            ask("ZADD", f"{prefix}:kind:failure", AT, member)
        elif kind == "signature":
            ask("HSET", f"{prefix}:signatures", id, data)
            ask("HSET", f"{prefix}:marks", id, data)
            ask("ZADD", f"{prefix}:last", AT, id)
        elif kind == "event":
            ask("HSET", f"{prefix}:events", id, data)
            ask("ZADD", f"{prefix}:times", AT, id)
        elif kind == "worker":
            ask("HSET", f"{prefix}:workers", id, data)
        else:
            ask("SET", f"celeriac:outcome:{id}", b"1" + data)
            ask("LPUSH", "celeriac:recent", id)

    def clear(self) -> None:
        self.server.ask("FLUSHALL")


class HistoryInMongoDB(HistorySurface):
    """`mongodb://`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def put(self, kind: str, data: bytes) -> None:
        id = new_id()
        places: dict[str, tuple[str, dict[str, Any]]] = {
            "sums": ("history.sums", {"_id": f'[10,{AT},"","t","q","{id}"]', "step": 10, "at": AT, "value": data}),
            "unfolded": ("history.workers", {"rows": {str(AT): {
                "x": [f'[10,{AT},"{id}","t","q","SUCCESS"]'.encode(), data]}}, "seen_at": 0.0}),
            "name": ("history.workers", {"rows": {str(AT): {"x": [data, data], "y": data}, "z": data}}),
            "attempt": ("history.attempts",
                        {"_id": f"{AT * 10**6:018} {id} {1:016}", "is_sample": False, "value": data}),
            "signature": ("history.signatures", {"last": float(AT), "value": data, "status": data, "revision": data}),
            "event": ("history.events", {"at": float(AT), "kind": "k", "value": data}),
            "worker": ("history.workers", {"complete": data, "folded": data, "seen_at": data, "rows": data}),
            "outcome": ("outcomes", {"outcome": data, "final": True, "state": "SUCCESS", "stored_at": 2e9}),
        }  # fmt: skip
        collection, document = places[kind]
        with MongoClient(self.url) as client:
            client.get_default_database()[f"celeriac.{collection}"].insert_one({"_id": id, **document})

    def clear(self) -> None:
        with MongoClient(self.url) as client:
            client.drop_database(client.get_default_database().name)
