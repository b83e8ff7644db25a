"""What front ends look at is bounded: by indexes, by counts that stop, by time, and by not waiting for the silent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.brokers.sqlite.operations import SQLiteOperations
from celeriac.drivers.sqlite import history as sqlite_history
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.history import SQLiteHistory
from celeriac.inspector import WorkerLoad
from celeriac.inspector.listing import STEP, list_ready, list_scheduled
from celeriac.model.filters import Filter, parse_filter
from celeriac.model.history import Attempt, Batch
from celeriac.model.message import COROUTINE, Message, new_ids
from celeriac.ports.history import PAGE
from celeriac.ports.operations import QueueCounts, WorkerInfo
from celeriac.web import collecting, site
from celeriac.web.limits import Limits
from celeriac.web.site import Site
from tests.patience import PATIENCE


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celeriac]:
    made = Celeriac("shop", broker_url=f"sqlite:///{tmp_path / 'celeriac.db'}", environ={})
    yield made
    made.close()


def plans(monkeypatch: pytest.MonkeyPatch, kind: type[Any], name: str, database: Database) -> list[str]:
    """Return a list, to which the plan of each query is added that `kind` makes by the method of that name."""
    found: list[str] = []
    read = getattr(kind, name)

    def explained(self: Any, query: str, given: Any) -> Any:
        rows = database.connection().execute(f"EXPLAIN QUERY PLAN {query}", tuple(given))
        found.append("\n".join(row[3] for row in rows))
        return read(self, query, given)

    monkeypatch.setattr(kind, name, explained)
    return found


# --- The history --------------------------------------------------------------------------------------


@pytest.fixture
def history(tmp_path: Path) -> Iterator[SQLiteHistory]:
    made = SQLiteHistory(Database(str(tmp_path / "history.db")))
    attempts = [
        Attempt(id=id, task="shop.add", queue="default", state="FAILURE" if number % 2 else "SUCCESS", attempt=1,
                done_at=float(number), signature="5" * 16 if number % 2 else "")
        for number, id in enumerate(new_ids(3 * PAGE))
    ]  # fmt: skip
    asyncio.run(made.record(Batch(lease="a", attempts=attempts), 0.0))
    yield made
    made.close()


@pytest.mark.parametrize("text", ["signature:5555555555555555", "signature:x task:shop.add state:failure",
                                  "task:shop.add state:failure since:2026-11-01", "id:x task:shop.add", "state:failure",
                                  "queue:mail", "task:shop.add,shop.mul"])  # fmt: skip
async def test_a_search_in_the_history_reads_rows_in_order_by_one_condition(
    text: str, history: SQLiteHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = plans(monkeypatch, SQLiteHistory, "_read", history.database)
    await history.attempts(parse_filter(text, 0.0), None, PAGE)
    (plan,) = found
    given = parse_filter(text, 0.0)
    conditions = {"ids (id=?": given.ids, "failures (signature=?": given.signatures, "tasks (task=?": given.tasks,
                  "kinds (sample=?": given.states}  # fmt: skip
    index = next((f"USING INDEX history_{name}" for name, values in conditions.items() if values), "SCAN")
    assert index in plan
    if not (given.ids or len(given.tasks) > 1):
        assert "TEMP B-TREE" not in plan


async def test_a_search_that_may_take_no_time_looks_at_one_step_and_goes_on_from_there(history: SQLiteHistory) -> None:
    nothing = Filter(queues=("mail",))
    first = await history.search(nothing, within=0.0)
    assert (first.rows, first.searched) == ([], PAGE)
    seen, cursor = first.searched, first.next
    while cursor is not None:
        page = await history.search(nothing, cursor=cursor, within=0.0)
        seen, cursor = seen + page.searched, page.next
    assert seen == 3 * PAGE
    assert (await history.search(nothing)).searched == 3 * PAGE


async def test_counting_attempts_stops(history: SQLiteHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await history.count_attempts() == 3 * PAGE
    monkeypatch.setattr(sqlite_history, "MOST_COUNTED", 10)
    assert await history.count_attempts() == 10


# --- Messages -----------------------------------------------------------------------------------------


async def test_messages_are_merged_in_order_and_read_no_further_than_asked(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = new_ids(8)
    made = [Message(id=id, task="shop.add", queue="mail", priority=priority, lane=lane) for id, priority, lane in zip(
        ids, (5, 9, 5, 0, 5, 5, 5, 5), ("plain", COROUTINE) * 4, strict=True)]  # fmt: skip
    await app.broker.apublish(made[:6])
    for one in made[6:]:
        app.broker.publish([one])  # one by one: fresh
    await app.broker.apublish([Message(id=new_ids(1)[0], task="shop.add", queue="other")])
    operations = app.broker.operations()
    assert isinstance(operations, SQLiteOperations)
    found = plans(monkeypatch, SQLiteOperations, "_rows", operations._database)
    seen = [one.id for offset in range(0, 8, 3) for one in await operations.peek("mail", 3, offset)]
    assert seen == [ids[number] for number in (1, 0, 2, 4, 5, 6, 7, 3)]
    assert await operations.peek("nothing", 3) == []
    assert not any("TEMP B-TREE" in plan for plan in found)


@pytest.mark.parametrize("queue", [None, "mail"])
async def test_the_index_alone_tells_which_scheduled_messages_are_skipped(
    queue: str | None, app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, due = new_ids(9), app.clock.now() + 5000
    await app.broker.apublish([
        Message(id=id, task="shop.add", queue="other" if number == 4 else "mail", due_at=due - number)
        for number, id in enumerate(ids)
    ])  # fmt: skip
    operations = app.broker.operations()
    assert isinstance(operations, SQLiteOperations)
    found = plans(monkeypatch, SQLiteOperations, "_rows", operations._database)
    seen = [one.id for one in await operations.scheduled(queue, 4, 2)]
    expected = [id for number, id in enumerate(ids) if queue is None or number != 4][::-1]
    assert seen == expected[2:6]
    assert "SCAN scheduled USING COVERING INDEX due" in found[-1]


@pytest.mark.parametrize("is_due", [True, False])
async def test_a_search_among_messages_that_may_take_no_time_goes_on_from_where_it_ended(
    is_due: bool, app: Celeriac
) -> None:
    due_at = None if is_due else app.clock.now() + 5000
    await app.broker.apublish([Message(id=id, task="shop.add", due_at=due_at) for id in new_ids(2 * STEP)])
    nothing, cursor, steps = Filter(tasks=("shop.mul",)), None, list[int]()
    while True:
        if is_due:
            page = await list_ready(app, nothing, ["default"], 50, cursor, within=0.0)
        else:
            page = await list_scheduled(app, nothing, 50, cursor, within=0.0)
        assert page.rows == []
        steps.append(page.searched)
        if (cursor := page.next) is None:
            break
    assert steps == [STEP, STEP, 0]


# --- The whole system ---------------------------------------------------------------------------------


class Gate:
    """Stands for counting: it ends when it is told to."""

    def __init__(self) -> None:
        self.counts = [QueueCounts(queue="mail", ready=1)]
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.calls = 0

    async def __call__(self) -> list[QueueCounts]:
        self.calls += 1
        self.begun.set()
        await self.open.wait()
        return self.counts


@pytest.fixture
def slow(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> tuple[Site, Gate]:
    made, gate = Site(app, Limits()), Gate()
    monkeypatch.setattr(made.inspector, "queues", gate)

    async def read(work: Any) -> Any:
        return await work

    monkeypatch.setattr(made, "read", read)
    monkeypatch.setattr(site, "QUICK", -1.0)
    monkeypatch.setattr(site, "SHARE", 0)
    return made, gate


async def test_counts_are_given_while_they_are_counted_anew_until_a_queue_is_changed(slow: tuple[Site, Gate]) -> None:
    made, gate = slow
    gate.open.set()
    assert await made.counts() == gate.counts
    gate.open.clear()
    gate.begun.clear()
    assert await made.counts() == gate.counts
    assert await made.counts() == gate.counts
    await asyncio.wait_for(gate.begun.wait(), PATIENCE)
    assert gate.calls == 2
    made.changed()
    asking = asyncio.create_task(made.counts())
    gate.begun.clear()
    await asyncio.wait_for(gate.begun.wait(), PATIENCE)
    assert not asking.done()
    gate.counts = [QueueCounts(queue="mail", ready=2)]
    gate.open.set()
    assert await asyncio.wait_for(asking, PATIENCE) == gate.counts
    assert gate.calls == 3


async def test_who_waits_for_counts_gets_the_error(slow: tuple[Site, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = slow

    async def fail() -> list[QueueCounts]:
        raise OSError("away")

    monkeypatch.setattr(made.inspector, "queues", fail)
    with pytest.raises(OSError, match="away"):
        await made.counts()


async def test_workers_that_do_not_answer_are_not_waited_for(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    made, answered = Site(app, Limits()), asyncio.Event()

    async def ask_workers() -> dict[str, Any]:
        await answered.wait()
        return {"load": {"silent@host": WorkerLoad(capacity={}, busy={})}}

    monkeypatch.setattr(made.collector, "_ask_workers", ask_workers)
    monkeypatch.setattr(collecting, "WITHIN", PATIENCE)
    await app.broker.lease(WorkerInfo(name="silent@host", queues=("mail",)), 10 * PATIENCE, 3)
    await app.broker.apublish([Message(id=new_ids(1)[0], task="shop.add", queue="mail")])
    collected = await asyncio.wait_for(made.collector.collected_soon(0.0), PATIENCE)
    assert collected.up["broker"]
    assert list(collected.workers or ()) == ["silent@host"]
    assert collected.load == {}
    assert [(one.queue, one.ready) for one in collected.queues or () if one.ready] == [("mail", 1)]
    answered.set()  # they are waited for nevertheless
    assert list((await asyncio.wait_for(made.collector.collected(), PATIENCE)).load) == ["silent@host"]
