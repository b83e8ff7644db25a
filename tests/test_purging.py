"""Purging: nobody waits for a task that is gone, and no task runs and is told to be purged, whatever is killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from celeriac import AsyncResult, Celeriac, TaskRevoked, group, states
from celeriac.brokers.amqp import connections
from celeriac.inspector import Inspector
from celeriac.model.message import COROUTINE, PLAIN, Message
from celeriac.ports.broker import Delivery, Lease
from celeriac.ports.operations import WITHDRAWN, WorkerInfo
from celeriac.testing import running_worker
from tests.patience import PATIENCE, eventually

SLOTS = {PLAIN: 10, COROUTINE: 10}
PAIRS = [("memory", ""), ("sqlite", ""), ("redis", ""), ("memory", "sqlite"), ("sqlite", "redis"), ("redis", "sqlite"),
         ("rabbitmq", "sqlite"), ("rabbitmq", "redis")]  # fmt: skip


class Killed(BaseException):
    """The end of the process."""


@pytest.fixture(params=PAIRS, ids=lambda pair: "-".join(pair).strip("-"))
def app(request: pytest.FixtureRequest, make_app: Callable[..., Celeriac], tmp_path: Path) -> Iterator[Celeriac]:
    broker, backend = request.param
    urls = {"": None, "sqlite": f"sqlite:///{tmp_path / 'celeriac.db'}"}
    if "redis" in request.param:
        urls["redis"] = request.getfixturevalue("redis").url
    if "rabbitmq" in request.param:
        urls["rabbitmq"] = request.getfixturevalue("place").url
    others = {} if broker == "memory" else {"broker_url": urls[broker]}
    app = make_app(**others, result_backend=urls[backend], task_queues=["mail"])
    app.told = []  # type: ignore[attr-defined]

    @app.task(name="add")
    def add(*numbers: int) -> int:
        app.told.append(("ran", numbers))  # type: ignore[attr-defined]
        return sum(numbers)

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="tell", queue="mail")
    def tell(id: str) -> None:
        app.told.append(("error callback", id))  # type: ignore[attr-defined]

    yield app
    app.close()


def send(app: Celeriac) -> tuple[list[AsyncResult[Any]], int]:
    """Send tasks of all kinds; return those that end, and how many messages wait in the queue `default`."""
    add, tell = app.tasks["add"], app.tasks["tell"]
    alone, told = add.delay(1), add.s(2).on_error(tell.s()).delay()
    body = (group(add.s(3), add.s(4)) | app.tasks["total"].s()).delay()
    if app.broker.knows_ids:
        later = add.apply_async((5,), countdown=3600)
        return [alone, told, body, later], 5
    return [alone, told, body], 4


async def check_purged(app: Celeriac, results: list[AsyncResult[Any]]) -> None:
    """Check that all tasks end as purged, and that none has run."""
    with running_worker(app):
        for result in results:
            with pytest.raises(TaskRevoked, match="was purged"):
                await asyncio.to_thread(result.get, PATIENCE)
        await eventually(lambda: ("error callback", results[1].id) in app.told, "the error callback")  # type: ignore[attr-defined]
    assert app.told == [("error callback", results[1].id)]  # type: ignore[attr-defined]


async def waiting(app: Celeriac) -> int:
    """Return how many messages wait in the queue `default`."""
    return sum(one.ready + one.scheduled for one in await Inspector(app).queues() if one.queue == "default")


async def test_purged_tasks_end_and_so_does_what_waits_for_them(app: Celeriac) -> None:
    results, count = send(app)
    assert await Inspector(app).purge(["default"]) == {"default": count}
    assert await waiting(app) == 0
    await check_purged(app, results)


@asynccontextmanager
async def killed_at(app: Celeriac, step: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[], bool]]:
    """Let the process die before its request number `step` that changes something; yield whether it got there."""
    left = [step]
    operations = type(app.broker.operations())

    def dying(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def work(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return await original(*args, **kwargs)

        return work

    def acknowledge(self: Any, tags: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        acknowledge_(self, tags)

    acknowledge_ = connections._AmqpTaken.acknowledge
    with monkeypatch.context() as patch:
        for owner, names in ((type(app.backend), ("store", "conclude")), (type(app.broker), ("revoke", "apublish")),
                             (operations, ("remove",))):  # fmt: skip
            for name in names:
                patch.setattr(owner, name, dying(getattr(owner, name)))
        patch.setattr(connections._AmqpTaken, "acknowledge", acknowledge)
        yield lambda: left[0] < 0


@pytest.mark.parametrize("step", range(5))
async def test_nobody_waits_for_ever_if_purging_is_killed(
    app: Celeriac, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left in the queue runs or is purged again; what is gone has ended."""
    results = send(app)[0][:3]
    async with killed_at(app, step, monkeypatch) as was_killed:
        with suppress(Killed):
            await Inspector(app).purge(["default"])
        if step == 0:
            assert was_killed()
    with running_worker(app):
        for result in results:
            with suppress(TaskRevoked):
                await asyncio.to_thread(result.get, PATIENCE)
        ended = {result.id: result.state for result in results}
    purged = {id for id, state in ended.items() if state == states.REVOKED}
    assert ("ran", (1,)) not in app.told or results[0].id not in purged  # type: ignore[attr-defined]
    assert ("ran", (2,)) not in app.told or results[1].id not in purged  # type: ignore[attr-defined]
    assert app.told.count(("ran", (1,))) == (results[0].id not in purged)  # type: ignore[attr-defined]


async def test_a_message_that_a_worker_takes_meanwhile_is_left_to_it(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding the messages and deleting them, a worker receives one: it runs, and is not told to be purged."""
    first, second = app.tasks["add"].delay(1), app.tasks["add"].delay(2)
    lease = await app.broker.lease(WorkerInfo(name="w"), 30.0, 3)
    taken: list[Delivery] = []
    if app.broker.knows_ids:
        operations = type(app.broker.operations())
        original = operations.waiting

        async def waiting_and_taken(self: Any, queue: str, limit: int) -> Any:
            found = await original(self, queue, limit)
            if not taken:
                taken.extend(await lease.receive(["default"], {PLAIN: 1}, 0.0))
            return found

        monkeypatch.setattr(operations, "waiting", waiting_and_taken)
    else:  # nothing can be taken meanwhile: a worker has it, or the purge
        taken.extend(await receive_one(lease))
    assert await Inspector(app).purge(["default"]) == {"default": 1}
    monkeypatch.undo()
    (delivery,) = taken
    assert (delivery.message.id, delivery.revoked) == (first.id, False)
    assert app.backend.fetch([first.id]) == {}
    with pytest.raises(TaskRevoked, match="was purged"):
        second.get(PATIENCE)
    await lease.end()  # it goes back, and runs
    with running_worker(app):
        assert await asyncio.to_thread(first.get, PATIENCE) == 1


async def receive_one(lease: Lease) -> list[Delivery]:
    async with asyncio.timeout(PATIENCE):
        while not (got := await lease.receive(["default"], {PLAIN: 1}, 10.0)):
            pass
    return got


async def test_more_than_one_slice_is_purged(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celeriac.app.purging.WITHDRAWN", 3)
    app.tasks["add"].delay_many([(i,) for i in range(10)])
    assert await Inspector(app).purge(["default"]) == {"default": 10}
    assert await waiting(app) == 0


async def test_unreadable_messages_are_purged_too(app: Celeriac) -> None:
    assert WITHDRAWN > 2
    app.tasks["add"].delay(1)
    app.broker.publish([Message(id="odd", task="(unreadable)")])
    assert await Inspector(app).purge(["default"]) == {"default": 2}
