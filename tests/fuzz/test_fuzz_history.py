"""What another version or a fault has written into a history stops neither a worker nor a command, on any store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from celeriac import Celeriac
from celeriac.model.history import Batch, Event, Key, Sums
from celeriac.model.spread import Spread
from celeriac.ports.history import History, Limits
from tests.commands import command
from tests.fuzz.history_surfaces import (
    AT,
    KINDS,
    HistoryInMongoDB,
    HistoryInRedis,
    HistoryInSQL,
    HistoryInSQLite,
    HistorySurface,
)
from tests.fuzz.mutations import Mutator
from tests.mongodb_server import LEFT, database_on

pytestmark = [pytest.mark.filterwarnings(LEFT), pytest.mark.usefixtures("collected")]

FEW = 60  # inputs in `make test`
EACH = 20  # inputs between two looks
TOGETHER = 1_000  # inputs in one store: each look reads them all
LOOKS = (["stats", "--ever"], ["stats", "failures"], ["tasks", "--task", "shop.*"], ["tasks"])
GOOD: dict[str, dict[str, Any]] = {
    "attempt": {"id": "x", "task": "t", "queue": "q", "state": "FAILURE", "attempt": 1, "done_at": 1.8e9},
    "signature": {"signature": "s", "task": "t", "error": "E", "title": "bad", "first": 1.8e9, "last": 1.8e9},
    "event": {"at": 1.8e9, "kind": "k", "id": "i", "by": "me", "text": "did", "data": {"n": 1}},
    "outcome": {"id": "x", "task": "t", "state": "SUCCESS", "value": b"1"},
}
SUMS = {"n": 1, "runtime": msgspec.to_builtins(Spread()), "wait": msgspec.to_builtins(Spread())}


@pytest.fixture(params=["sqlite", "redis", "sql", "mongodb"])
def surface(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HistorySurface]:
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield HistoryInSQLite(tmp_path)
        elif request.param == "sql":
            yield HistoryInSQL(tmp_path)
        elif request.param == "redis":
            yield HistoryInRedis(request.getfixturevalue("redis"))
        else:
            yield HistoryInMongoDB(stack.enter_context(database_on(request.getfixturevalue("mongodb"))))


def test_bytes_in_rows_stop_neither_workers_nor_commands(
    surface: HistorySurface, seed: int, count: int
) -> None:
    fields, items = Mutator(seed), Mutator(seed, lambda value: msgspec.msgpack.encode(list(value.values())))
    corpus = [b"", b"junk", b"\xc1", b"[]", b'[10,0,"","","",""]', b"7:7:7", b"\xff" * 40]
    for first in range(0, count, TOGETHER):
        surface.clear()
        app = Celeriac("shop", broker_url="memory://fuzz-history", result_backend=surface.url, environ={})
        with closing(app):
            for number in range(first, min(first + TOGETHER, count)):
                if number % EACH == 0:
                    look(app, (number - first) // EACH + 1)
                kind = KINDS[number % len(KINDS)]
                good = GOOD.get(kind)
                surface.put(kind, items.make(SUMS, corpus) if good is None else fields.make(good, corpus))
            look(app, (number - first) // EACH + 2)


def look(app: Celeriac, times: int) -> None:
    """Do what a worker does, for the n-th time, and run commands."""
    assert app.history is not None
    app.broker.complete(work(app.history, times))
    for arguments in LOOKS:
        done = command(app, *arguments)
        assert done.exit_code == 0, done.output


async def work(history: History, times: int) -> None:
    """Do what a worker does: write, compact and prune. What it has counted so many times stays."""
    slot = AT + 10 * times
    given = Batch(lease="good", complete=slot, sums={Key(10, slot, "good", "shop.good", "q", "SUCCESS"): Sums(1)},
                  events=[Event(at=float(slot), kind="good")])  # fmt: skip
    await history.record(given, slot)
    for _ in range(5):
        if not await history.compact(slot + 20):
            break
    await history.prune(Limits(), slot)
    counted = [point.sums.n for point in await history.totals() if point.task == "shop.good"]
    assert sum(counted) == times
    assert any(event.kind == "good" for event in await history.events(limit=10_000))
