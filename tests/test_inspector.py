"""The inspector: asking workers, and looking into broker and backend."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from celeriac import Celeriac, TaskRevoked, group, states
from celeriac.app.control import COMMANDS, Command, Reply, read_command
from celeriac.errors import EncodeError, UnknownQueue
from celeriac.inspector import ActiveTask, Inspector, TaskStats, WorkerStats
from celeriac.model.message import COROUTINE, PLAIN, new_ids
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import dumps
from celeriac.ports.abilities import Ability
from celeriac.ports.broker import Action, Settlement
from celeriac.ports.operations import WorkerInfo
from celeriac.testing import running_worker
from tests.patience import FOR_EVER, PATIENCE, eventually

SLOTS = {PLAIN: 10, COROUTINE: 10}
STATS = {
    "pid": 7,
    "uptime": 1.5,
    "capacity": {"plain": 2},
    "pool": {"kind": "processes", "children": [{"pid": 8, "lane": "plain", "done": 3, "running": 1}]},
    "rusage": {"peak_memory_kib": 1},
    "tasks": {"shop.add": {"count": 3, "states": {"SUCCESS": 3}, "mean": 0.1}},
    "new": "of a later version",
}


@asynccontextmanager
async def fake_worker(app: Celeriac, name: str, answers: Mapping[str, Any]) -> AsyncIterator[list[Command]]:
    """Answer commands as a worker called `name`: with a value, with an error (an exception), or (no entry) not."""
    lease = await app.broker.lease(WorkerInfo(name=name, queues=("default", "own")), 30.0, 3)
    heard: list[Command] = []
    commands = await app.broker.listen(COMMANDS)

    async def serve() -> None:
        async with aclosing(commands):  # type: ignore[type-var]
            async for payload in commands:
                command = read_command(payload)
                if command.destination is not None and name not in command.destination:
                    continue
                heard.append(command)
                if command.name in answers and command.reply_to is not None:
                    answer = answers[command.name]
                    failed = isinstance(answer, Exception)
                    reply = Reply(name, error=str(answer)) if failed else Reply(name, answer)
                    await app.broker.broadcast(command.reply_to, [dumps(msgspec.to_builtins(reply))])

    serving = asyncio.ensure_future(serve())
    try:
        yield heard
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await lease.end()


@pytest.fixture(params=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, make_app: Callable[..., Celeriac], tmp_path: Path) -> Celeriac:
    if request.param == "memory":
        return make_app(task_queues=["mail"])
    return make_app(task_queues=["mail"], broker_url=f"sqlite:///{tmp_path / 'inspected.db'}")


# --- Workers ------------------------------------------------------------------------------------------


async def test_asking_returns_as_soon_as_all_have_replied(app: Celeriac) -> None:
    async with fake_worker(app, "a", {"ping": {"ok": "pong"}}), fake_worker(app, "b", {"ping": {"ok": "pong"}}):
        async with asyncio.timeout(PATIENCE):
            replies = await Inspector(app).ask("ping", timeout=FOR_EVER)
    assert replies == {"a": Reply("a", {"ok": "pong"}), "b": Reply("b", {"ok": "pong"})}


async def test_answers_name_the_workers_that_were_silent_failed_or_unknown(app: Celeriac) -> None:
    good, bad = fake_worker(app, "good", {"ping": {"ok": "pong"}}), fake_worker(app, "bad", {"ping": ValueError("no")})
    async with good, bad, fake_worker(app, "mute", {}):
        answers = await Inspector(app, timeout=3.0).ping()
        assert (answers.values, answers.errors, answers.silent) == ({"good": {"ok": "pong"}}, {"bad": "no"}, ("mute",))
        answers = await Inspector(app, destination=["good", "gone"], timeout=PATIENCE).ping()
        assert (list(answers.values), answers.silent, answers.unknown) == (["good"], (), ("gone",))


async def test_asking_without_workers_does_not_wait(app: Celeriac) -> None:
    async with asyncio.timeout(PATIENCE):
        answers = await Inspector(app, timeout=FOR_EVER).ping()
    assert not answers.heard


async def test_answers_are_typed_and_those_of_later_versions_understood(app: Celeriac) -> None:
    active = [{"id": "1", "task": "shop.add", "queue": "default", "attempt": 2, "started_at": 3.0, "pid": 4}]
    told = {"stats": STATS, "active": active, "registered": ["shop.add"], "reserved": [{"id": "1"}]}
    async with fake_worker(app, "a", told):
        inspector = Inspector(app, timeout=PATIENCE)
        [stats] = (await inspector.stats()).values.values()
        assert isinstance(stats, WorkerStats)
        assert stats.tasks == {"shop.add": TaskStats(count=3, states={"SUCCESS": 3}, mean=0.1)}
        assert stats.pool.children[0].running == 1
        [[task]] = (await inspector.active()).values.values()
        assert task == ActiveTask(id="1", task="shop.add", queue="default", attempt=2, started_at=3.0, pid=4)
        assert (await inspector.registered()).values == {"a": ["shop.add"]}
        assert "not understood" in (await inspector.reserved()).errors["a"]


async def test_orders_carry_their_arguments(app: Celeriac) -> None:
    names = ["rate_limit", "time_limit", "pool_grow", "pool_shrink", "add_consumer", "cancel_consumer", "shutdown"]
    async with fake_worker(app, "a", {name: {"ok": ""} for name in [*names, "log_level", "terminate"]}) as heard:
        inspector = Inspector(app, timeout=timedelta(seconds=PATIENCE))
        await inspector.rate_limit("t", "10/s")
        await inspector.time_limit("t", timedelta(seconds=1), None)
        await inspector.pool_grow(2)
        await inspector.pool_shrink()
        await inspector.add_consumer("mail")
        await inspector.cancel_consumer("own")
        await inspector.shutdown()
        await inspector.log_level("debug")
        await inspector.terminate(["x"])
        for soft, hard in ((0, None), (None, timedelta()), (2, 1)):
            with pytest.raises(ValueError, match="time_limit must"):
                await inspector.time_limit("t", soft, hard)
    assert [(command.name, command.arguments) for command in heard] == [
        ("rate_limit", {"task": "t", "rate": "10/s"}),
        ("time_limit", {"task": "t", "soft": 1.0, "hard": None}),
        ("pool_grow", {"n": 2}),
        ("pool_shrink", {"n": 1}),
        ("add_consumer", {"queue": "mail"}),
        ("cancel_consumer", {"queue": "own"}),
        ("shutdown", {}),
        ("log_level", {"level": "debug"}),
        ("terminate", {"ids": ["x"]}),
    ]


# --- Queues, dead letters, tasks ----------------------------------------------------------------------


async def test_queues_are_counted_the_empty_ones_too(app: Celeriac) -> None:
    await app.asend_task("t", [1])
    await app.asend_task("t", [2], countdown=3600)
    counts = {found.queue: found for found in await Inspector(app).queues()}
    assert (counts["default"].ready, counts["default"].scheduled, counts["mail"].ready) == (1, 1, 0)


async def test_messages_can_be_seen_and_purged(app: Celeriac) -> None:
    inspector = Inspector(app)
    app.conf.result_extended = True
    now, later = await app.asend_task("t", [1]), await app.asend_task("t", [2], countdown=3600)
    assert [message.id for message in await inspector.peek("default")] == [now.id]
    assert [message.id for message in await inspector.scheduled()] == [later.id]
    assert await inspector.purge(["default", "mail", "default"]) == {"default": 2, "mail": 0}
    for result in (now, later):
        with pytest.raises(TaskRevoked, match="was purged: its message was deleted from the queue 'default'"):
            await result.aget(PATIENCE)
        assert (await inspector.find([result.id]))[result.id].state == states.REVOKED
    assert (now.args, later.args) == ([1], [2])


async def test_a_purged_task_ends_its_workflow_and_sends_its_error_callbacks(app: Celeriac) -> None:
    told: queue.Queue[str] = queue.Queue()

    @app.task(name="told", queue="mail")
    def tell(id: str) -> None:
        told.put(id)

    @app.task(name="adds")
    def add(*numbers: object) -> int:
        return 1

    lone = add.s(1).on_error(tell.s()).delay()
    ended = (group(add.s(1), add.s(2)) | add.s()).on_error(tell.s()).delay()
    assert await Inspector(app).purge(["default"]) == {"default": 3}
    with running_worker(app):
        for result in (lone, ended):
            with pytest.raises(TaskRevoked, match="was purged"):
                await asyncio.to_thread(result.get, PATIENCE)
        assert {told.get(timeout=PATIENCE) for _ in range(2)} >= {lone.id}


async def test_a_paused_queue_gives_nothing_until_it_is_resumed(app: Celeriac) -> None:
    inspector = Inspector(app)
    await app.asend_task("t")
    lease = await app.broker.lease(WorkerInfo(name="a"), 30.0, 3)
    await inspector.pause(["default"])
    assert await lease.receive(["default"], SLOTS, 0.0) == []
    await inspector.resume(["default"])
    assert len(await lease.receive(["default"], SLOTS, 0.0)) == 1


async def test_a_part_of_a_list_that_cannot_be_is_refused(app: Celeriac) -> None:
    inspector = Inspector(app)
    for look in (partial(inspector.peek, "default"), inspector.scheduled, inspector.dead, inspector.recent):
        with pytest.raises(ValueError, match="limit must be a whole number of 0 or more, not -3"):
            await look(limit=-3)
        with pytest.raises(ValueError, match=r"offset must be a whole number of 0 or more, not 1\.5"):
            await look(offset=1.5)  # type: ignore[arg-type]


async def test_an_unknown_queue_is_refused(app: Celeriac) -> None:
    inspector = Inspector(app)
    for work in (inspector.purge(["mial"]), inspector.pause(["mial"]), inspector.peek("mial"), inspector.dead("mial"),
                 inspector.add_consumer("mial"), inspector.scheduled("mial")):  # fmt: skip
        with pytest.raises(UnknownQueue, match="Did you mean 'mail'"):
            await work


async def test_a_queue_that_only_a_worker_declares_is_known(app: Celeriac) -> None:
    async with fake_worker(app, "a", {}):
        assert await Inspector(app).peek("own") == []


@pytest.mark.parametrize("knows_ids", [True, False])
async def test_who_resends_what_is_no_dead_letter_any_more_keeps_its_result(
    make_app: Callable[..., Celeriac], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows_ids: bool
) -> None:
    app = make_app(broker_url=f"sqlite:///{tmp_path}/broker.db", result_backend=f"sqlite:///{tmp_path}/results.db")
    if not knows_ids:
        monkeypatch.setattr(app.broker, "can", lambda ability: ability is not Ability.KNOW_IDS)
    sent = await app.asend_task("t")
    lease = await app.broker.lease(WorkerInfo(name="a"), 30.0, 3)
    [delivery] = await lease.receive(["default"], SLOTS, 0.0)
    await lease.settle([Settlement(delivery=delivery, action=Action.BURY, reason="broken")])
    await app.backend.store([Outcome(id=sent.id, task="t", state=states.FAILURE), Outcome(id="done", task="t",
                                                                                          state=states.SUCCESS)])
    assert await Inspector(app).resend([sent.id, "done"]) == 1
    assert list(await app.backend.afetch([sent.id, "done"])) == ["done"]


async def test_dead_letters_can_be_listed_resent_and_dropped(app: Celeriac) -> None:
    inspector = Inspector(app)
    first, second = await app.asend_task("t", [1]), await app.asend_task("t", [2])
    lease = await app.broker.lease(WorkerInfo(name="a"), 30.0, 3)
    deliveries = await lease.receive(["default"], SLOTS, 0.0)
    await lease.settle([Settlement(delivery=one, action=Action.BURY, reason="broken") for one in deliveries])
    assert {(dead.message.id, dead.reason) for dead in await inspector.dead()} == {
        (first.id, "broken"),
        (second.id, "broken"),
    }
    assert (await inspector.find([first.id]))[first.id].place == "dead"
    assert await inspector.resend([first.id, "nobody"]) == 1
    assert await inspector.drop([second.id]) == 1
    assert await inspector.dead() == []
    assert (await inspector.find([first.id]))[first.id].place == "ready"


async def test_a_task_is_found_in_broker_and_backend(app: Celeriac) -> None:
    inspector = Inspector(app)
    sent = await app.asend_task("t", [1])
    view = (await inspector.find([sent.id, "nobody"]))[sent.id]
    assert (view.place, view.state, view.task) == ("ready", "PENDING", "t")
    assert not (await inspector.find(["nobody"]))["nobody"].known
    await app.backend.store([Outcome(id="done", task="u", state="SUCCESS", value=b"4")])
    assert await inspector.state("done") == "SUCCESS"
    assert [outcome.id for outcome in await inspector.recent(state="SUCCESS")] == ["done"]
    assert await inspector.recent(state="FAILURE") == []


async def test_one_id_queue_or_worker_is_no_list_of_letters(app: Celeriac) -> None:
    inspector = Inspector(app, destination="alone", timeout=PATIENCE)
    sent = await app.asend_task("t", countdown=3600)
    assert await inspector.run_now(sent.id) == 1
    assert await inspector.move(sent.id, "mail") == 1
    assert [view.place for view in (await inspector.find(sent.id)).values()] == ["ready"]
    assert (await inspector.retry(sent.id)).refused.keys() == {sent.id}
    assert (await inspector.drop(sent.id), await inspector.resend(sent.id)) == (0, 0)
    await inspector.pause("mail")
    await inspector.resume("mail")
    assert await inspector.purge("mail") == {"mail": 1}
    async with fake_worker(app, "alone", {"terminate": {"ok": ""}}) as heard:
        assert (await inspector.terminate(sent.id)).values == {"alone": {"ok": ""}}
        await app.control.send("terminate", {"ids": []}, destination="alone")
        await eventually(lambda: len(heard) == 2)
    assert [(command.arguments, command.destination) for command in heard] == [
        ({"ids": [sent.id]}, ["alone"]), ({"ids": []}, ["alone"]),
    ]  # fmt: skip


async def test_any_number_of_tasks_is_terminated(app: Celeriac) -> None:
    inspector = Inspector(app, destination="alone", timeout=PATIENCE)
    ids = [*new_ids(30_000), *("\x1f" * 990 + f"{number:010}" for number in range(300))]  # six bytes a character
    async with fake_worker(app, "alone", {"terminate": {"ok": ""}}) as heard:
        await app.control.arevoke(ids, terminate=True)
        await eventually(lambda: ids == [id for command in heard for id in command.arguments["ids"]])
        heard.clear()
        assert (await inspector.terminate(ids)).values == {"alone": {"ok": ""}}
        assert ids == [id for command in heard for id in command.arguments["ids"]]
        with pytest.raises(EncodeError, match="A control command may have 1,048,576 bytes"):
            await app.control.send("terminate", {"ids": ids})


async def test_a_revoked_task_is_delivered_as_revoked(app: Celeriac) -> None:
    sent = await app.asend_task("t", countdown=3600)
    await Inspector(app).revoke([sent.id])
    lease = await app.broker.lease(WorkerInfo(name="a"), 30.0, 3)
    [delivery] = await lease.receive(["default"], SLOTS, 0.0)
    assert delivery.revoked


async def test_a_worker_that_is_told_to_shut_down_answers_first_on_a_slow_server(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    broadcast = app.broker.broadcast

    async def slow(channel: str, payloads: Sequence[bytes]) -> None:
        if channel.startswith("reply."):
            await asyncio.sleep(0.3)  # in which the worker, which has nothing to do, would end
        await broadcast(channel, payloads)

    monkeypatch.setattr(app.broker, "broadcast", slow)
    with running_worker(app):
        answers = await Inspector(app, timeout=PATIENCE).ask("shutdown")
    assert [reply.value for reply in answers.values()] == [{"ok": "shutting down"}]
