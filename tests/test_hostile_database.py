"""SQLite stores any value in any column: a damaged or hostile database file stops no worker and no command."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from celeriac import Celeriac
from celeriac.brokers.sqlite.lines import FEW_QUEUES
from celeriac.model.message import Message, encode, new_id
from celeriac.model.outcome import Outcome, encode_outcome
from celeriac.testing import running_worker
from tests.commands import command
from tests.patience import PATIENCE, wait_for


def blob(data: bytes) -> str:
    return f"x'{data.hex()}'"


GOOD = blob(encode(Message(id=new_id(), task="shop.add", body=b"[[1,2],{}]")))
DONE = blob(encode_outcome(Outcome(id="x", task="shop.add", state="SUCCESS", value=b"3")))
NO_UTF8 = "CAST(x'ff' AS TEXT)"


def ready(line: str = "1", rank: str = "4", seq: str = "SEQ", deliveries: str = "0", message: str = GOOD) -> str:
    return ("INSERT INTO ready (line, rank, seq, deliveries, message) "
            f"VALUES ({line}, {rank}, {seq}, {deliveries}, {message})")  # fmt: skip


def fresh(line: str = "1", rank: str = "4") -> str:
    return f"INSERT INTO fresh (seq, line, rank, message) VALUES (SEQ, {line}, {rank}, {GOOD})"


def active(line: str = "1", seq: str = "SEQ", deliveries: str = "9", message: str = GOOD) -> str:
    """A message that a dead lease holds."""
    return ("INSERT INTO active (line, rank, seq, deliveries, message, lease, receipt) "
            f"VALUES ({line}, 4, {seq}, {deliveries}, {message}, -1, 1)")  # fmt: skip


def line(queue: str, lane: str = "'plain'") -> str:
    return f"INSERT INTO lines (queue, lane) VALUES ({queue}, {lane})"


def broadcast(sent_at: str, payload: str) -> str:
    return f"INSERT INTO broadcasts (channel, sent_at, payload) VALUES ('control', {sent_at}, {payload})"


def lease(info: str, renewed_at: str, expires_at: str) -> str:
    return f"INSERT INTO leases (info, renewed_at, expires_at) VALUES ({info}, {renewed_at}, {expires_at})"


def outcome(id: str, stored_at: str, what: str, state: str = "'SUCCESS'") -> str:
    return ("INSERT INTO outcomes (id, state, final, stored_at, outcome) "
            f"VALUES ({id}, {state}, 1, {stored_at}, {what})")  # fmt: skip


def pending(node: str, free_at: str) -> str:
    return f"INSERT INTO dues (workflow, node, free_at) VALUES ('w', {node}, {free_at})"


ROWS = (
    line("x'ff'"), line(NO_UTF8), line("'default'", "x'00'"),
    ready(line="99"), ready(line="'a'"), ready(rank="'high'"), ready(rank="4.5"), ready(rank=NO_UTF8),
    ready(seq="'old'"), ready(seq="x'00'"), ready(seq="4.5"), ready(deliveries="'many'"), ready(deliveries="0.5"),
    ready(message="5"), ready(message="'junk'"), ready(message=NO_UTF8), fresh(line="'x'"), fresh(rank="'x'"),
    active(deliveries="'many'"), active(seq="'old'"), active(line="'a'", message="'junk'"),
    f"INSERT INTO scheduled (line, rank, seq, message, due_at) VALUES (1, 4, SEQ, {GOOD}, 'tomorrow')",
    "INSERT INTO dead (line, rank, seq, message, died_at, reason) VALUES (99, 4, SEQ, 'junk', 'today', x'ff')",
    lease("x'00'", "'now'", "'never'"), lease("'{\"name\":\"w\"}'", "'now'", "9e99"),
    "INSERT INTO revoked (id, until) VALUES ('x', 'for ever')", "INSERT INTO revoked (id, until) VALUES (x'ff', 9e99)",
    "INSERT INTO pauses (queue) VALUES (x'ff')", f"INSERT INTO pauses (queue) VALUES ({NO_UTF8})",
    broadcast("'now'", "5"), broadcast("2e9", "'junk'"), broadcast("2e9", NO_UTF8),
    "UPDATE sqlite_sequence SET seq = 'x' WHERE name = 'broadcasts'",
    outcome("x'ff'", "2e9", DONE), outcome("'x'", "'now'", "'junk'", state="5"),
    "INSERT INTO workflows (id, left, touched_at) VALUES ('w', 'two', 'now')", pending("1", "'x'"), pending("'x'", "0"),
)  # fmt: skip
COMMANDS = (["status"], ["tasks"], ["queues"], ["queues", "peek", "default"], ["queues", "dead", "list"],
            ["result", "x"], ["inspect", "ping"])  # fmt: skip


@pytest.fixture(params=[1, FEW_QUEUES + 1], ids=["one queue", "many queues"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Celeriac]:
    queues = ["default", *(f"q{number}" for number in range(1, request.param))]
    made = Celeriac("shop", broker_url=f"sqlite:///{tmp_path / 'queue.db'}", task_queues=queues)

    @made.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    yield made
    made.close()


def test_damaged_rows_stop_no_worker_and_no_command(app: Celeriac, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    add = app.tasks["shop.add"]
    with running_worker(app):
        assert add.delay(2, 2).get(timeout=PATIENCE) == 4  # creates the line 1, and what else there is
        assert app.broker.complete(app.control.send("ping")) is None
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO leases (lease, info, renewed_at, expires_at) VALUES (-1, x'00', 0, 0)")
        for number, row in enumerate(ROWS, 1):
            connection.execute(row.replace("SEQ", str(number)))
    with running_worker(app):
        results = [add.delay(number, 1) for number in range(3)]
        assert [result.get(timeout=PATIENCE) for result in results] == [1, 2, 3]
        wait_for(lambda: not rows(path, "SELECT lease FROM leases WHERE lease = -1"))
        for arguments in COMMANDS:
            command(app, *arguments)
        assert add.delay(2, 2).get(timeout=PATIENCE) == 4
    assert not rows(path, "SELECT 1 FROM active")


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()
