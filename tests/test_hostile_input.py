"""Nothing that comes in stops a worker, or holds up what comes with it: messages, workflows, control commands."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from celeriac import Celeriac, group
from celeriac.app.control import COMMANDS as CHANNEL
from celeriac.canvas.tree import Step, Tree
from celeriac.dashboard.calls import call_text
from celeriac.errors import AccessRefused, CeleriacError, NotSupported, WorkerLost
from celeriac.inspector import Inspector
from celeriac.model.message import Link, Message, Place, encode, new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Settlement
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan
from celeriac.testing import running_worker
from celeriac.worker import advancer
from celeriac.worker.advancer import Advancer
from celeriac.worker.settlement_writer import SettlementWriter
from tests.commands import command
from tests.hostile import BODIES, COMMANDS
from tests.patience import PATIENCE, wait_for
from tests.rabbitmq_server import Place as Vhost


@pytest.fixture(params=["sqlite", "memory"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Celeriac]:
    url = f"sqlite:///{tmp_path / 'queue.db'}" if request.param == "sqlite" else f"memory://{new_id()}"
    with app_on(url) as made:
        yield made


@contextmanager
def app_on(url: str, **settings: Any) -> Iterator[Celeriac]:
    made = Celeriac("shop", broker_url=url, broker_publish_timeout=PATIENCE, **settings)

    @made.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    @made.task(name="shop.total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    yield made
    made.close()


def call(**fields: Any) -> Message:
    return Message(**{"id": new_id(), "task": "shop.add", "body": b"[[1,2],{}]", **fields})


def works(app: Celeriac) -> bool:
    """Run a good task."""
    return bool(app.tasks["shop.add"].delay(2, 2).get(timeout=PATIENCE) == 4)


async def dead(app: Celeriac) -> list[tuple[str, str]]:
    return [(letter.message.id, letter.reason) for letter in await app.broker.operations().dead(None, 100)]


# --- Messages -----------------------------------------------------------------------------------------


async def test_a_place_beyond_its_tree_is_set_aside_and_its_batch_is_settled(app: Celeriac) -> None:
    add = app.tasks["shop.add"]
    sent = (add.s(1, 1) | add.s(1)).delay()
    found = app.broker.complete(app.broker.operations().find([sent.parent.id]))
    ((_, first),) = found.values()
    assert first.place is not None
    bad = [call(place=Place(first.place.workflow, node)) for node in (7, 10**9)]
    good = [call() for _ in range(5)]
    app.broker.publish([*good[:2], *bad, *good[2:]])
    with running_worker(app):
        assert sent.get(timeout=PATIENCE) == 3
        for message in good:
            assert app.AsyncResult(message.id).get(timeout=PATIENCE) == 3
        for message in bad:
            with pytest.raises(WorkerLost, match="could not settle the task"):
                app.AsyncResult(message.id).get(timeout=PATIENCE)
        assert works(app)
    letters = await dead(app)
    assert sorted(id for id, _ in letters) == sorted(message.id for message in bad)
    assert all(reason.startswith("it cannot be settled: ") for _, reason in letters)


async def test_a_place_in_a_workflow_that_does_not_exist_runs_and_nothing_follows(app: Celeriac) -> None:
    message = call(place=Place("W", 7))
    app.broker.publish([message])
    with running_worker(app):
        assert app.AsyncResult(message.id).get(timeout=PATIENCE) == 3
        assert works(app)
    assert await dead(app) == []


@pytest.mark.parametrize("refusal", [NotSupported, AccessRefused])
async def test_an_error_in_settling_one_delivery_holds_up_no_other(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: type[CeleriacError]
) -> None:
    messages = [call() for _ in range(20)]
    write = SettlementWriter.write

    async def fragile(self: Any, lease: Any, settlements: list[Settlement], now: float) -> list[bool]:
        if any(item.delivery.message.id == messages[7].id and not item.reason for item in settlements):
            raise refusal("not here")
        return await write(self, lease, settlements, now)

    monkeypatch.setattr(SettlementWriter, "write", fragile)
    app.broker.publish(messages)
    with running_worker(app):
        for number, message in enumerate(messages):
            if number != 7:
                assert app.AsyncResult(message.id).get(timeout=PATIENCE) == 3
        with pytest.raises(WorkerLost, match="could not settle the task: not here"):
            app.AsyncResult(messages[7].id).get(timeout=PATIENCE)
    assert await dead(app) == [(messages[7].id, "it cannot be settled: not here")]
    (told,) = [one for one in caplog.records if "becomes a dead letter" in one.message]
    assert told.message == f"shop.add[{messages[7].id}] becomes a dead letter: it cannot be settled: not here"
    assert told.exc_info is None  # a refusal says why


async def test_a_delivery_that_can_be_neither_settled_nor_set_aside_is_left_and_the_worker_goes_on(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad = call()
    write = SettlementWriter.write

    async def fragile(self: Any, lease: Any, settlements: list[Settlement], now: float) -> list[bool]:
        if any(item.delivery.message.id == bad.id for item in settlements):
            raise ZeroDivisionError
        return await write(self, lease, settlements, now)

    monkeypatch.setattr(SettlementWriter, "write", fragile)
    app.broker.publish([bad])
    with running_worker(app, grace_seconds=0.5):
        wait_for(lambda: f"Cannot set shop.add[{bad.id}] aside" in caplog.text)
        assert "ZeroDivisionError" in caplog.text  # a fault is logged with its traceback
        assert works(app)
    assert await app.broker.operations().find([bad.id]) == {bad.id: ("ready", bad)}  # it was returned at the end


async def test_a_worker_that_may_not_settle_anything_ends(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Any, lease: Any, settlements: list[Settlement], now: float) -> list[bool]:
        raise AccessRefused

    monkeypatch.setattr(SettlementWriter, "write", refuse)
    messages = [call() for _ in range(3)]
    app.broker.publish(messages)
    with pytest.raises(CeleriacError, match="test worker failed"), running_worker(app) as worker:
        wait_for(lambda: worker._failure)
    assert await dead(app) == []


async def test_a_caller_whose_address_is_the_fault_is_not_told_that_its_message_was_set_aside(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = call(reply_to="good"), call(reply_to="bad")
    told: list[str] = []
    write = SettlementWriter.write

    async def fragile(self: Any, lease: Any, settlements: list[Settlement], now: float) -> list[bool]:
        addresses = [item.outcome.reply_to for item in settlements if item.outcome is not None]
        if any(not item.reason for item in settlements) or "bad" in addresses:
            raise ZeroDivisionError
        told.extend(addresses)
        return await write(self, lease, settlements, now)

    monkeypatch.setattr(SettlementWriter, "write", fragile)
    app.broker.publish([good, bad])
    with running_worker(app):
        for message in (good, bad):
            with pytest.raises(WorkerLost, match="could not settle the task"):
                app.AsyncResult(message.id).get(timeout=PATIENCE)
    assert sorted(told) == ["", "good"]


async def test_a_node_that_cannot_be_advanced_is_removed_and_others_go_on(
    app: Celeriac, caplog: pytest.LogCaptureFixture
) -> None:
    add = app.tasks["shop.add"]
    chord = (group(add.s(1, 1), add.s(2, 2)) | app.tasks["shop.total"].s()).delay()
    ((_, member),) = (await app.broker.operations().find([chord.parent.results[0].id])).values()
    assert member.place is not None
    bad = Place(member.place.workflow, 7)
    store: Any = app.backend
    await store.conclude([NodeEnd(Outcome(id=new_id(), task="t", state="SUCCESS", place=bad), leaves_pending=True)])
    with running_worker(app):
        wait_for(lambda: f"Nothing follows node 7 of the workflow {bad.workflow}: it cannot be advanced" in caplog.text)
        other = (group(add.s(1, 1), add.s(2, 2)) | app.tasks["shop.total"].s()).delay()
        assert other.get(timeout=PATIENCE) == 6
    assert PendingNode(bad.workflow, 7) not in await store.claim_pending(10, 1.0)


async def test_a_node_whose_next_step_a_worker_may_not_send_waits_for_the_right_and_others_go_on(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(advancer, "CLAIM_SECONDS", 0.2)
    write, granted = Advancer._write, threading.Event()

    async def fragile(self: Any, advances: list[Advance], *others: Any) -> None:
        if not granted.is_set() and any(one.queue == "private" for item in advances for one in item.messages):
            raise AccessRefused("not there")
        await write(self, advances, *others)

    monkeypatch.setattr(Advancer, "_write", fragile)
    app.conf.task_create_missing_queues = True
    add, total = app.tasks["shop.add"], app.tasks["shop.total"]
    chord = (group(add.s(1, 1), add.s(2, 2)) | total.s().set(queue="private")).delay()
    with running_worker(app, queues=["default", "private"]):
        wait_for(lambda: "cannot be advanced, and is tried again in 0.2 s: not there" in caplog.text)
        other = (group(add.s(1, 1), add.s(2, 2)) | total.s()).delay()
        assert other.get(timeout=PATIENCE) == 6
        granted.set()
        assert chord.get(timeout=PATIENCE) == 6


async def test_a_node_that_can_be_neither_advanced_nor_removed_is_left_and_others_go_on(
    app: Celeriac, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, write = PendingNode(new_id(), 0), Advancer._write

    async def fragile(self: Any, advances: list[Advance], *others: Any) -> None:
        if any(item.pending == bad for item in advances):
            raise ZeroDivisionError
        await write(self, advances, *others)

    monkeypatch.setattr(Advancer, "_write", fragile)
    store: Any = app.backend
    store.plant(Plan(id=bad.workflow, tree=b"", left=1))
    end = Outcome(id=new_id(), task="t", state="SUCCESS", place=Place(bad.workflow, bad.node))
    await store.conclude([NodeEnd(end, leaves_pending=True)])
    with running_worker(app):
        wait_for(lambda: f"Node 0 of the workflow {bad.workflow} stays pending" in caplog.text)
        add = app.tasks["shop.add"]
        other = (group(add.s(1, 1), add.s(2, 2)) | app.tasks["shop.total"].s()).delay()
        assert other.get(timeout=PATIENCE) == 6


async def test_a_tree_that_is_stored_for_another_workflow_is_none_of_that_workflow(
    app: Celeriac, caplog: pytest.LogCaptureFixture
) -> None:
    node, store = PendingNode(new_id(), 0), cast(Any, app.backend)
    step = Step("a", "shop.add", msgspec.Raw(encode(Message(id="", task=""))))
    store.plant(Plan(id=node.workflow, tree=Tree("w", "w", [step], 0).encode(), left=1))
    end = Outcome(id=new_id(), task="t", state="SUCCESS", place=Place(node.workflow, node.node))
    await store.conclude([NodeEnd(end, leaves_pending=True)])
    with running_worker(app):
        wait_for(lambda: f"Nothing follows node 0 of the workflow {node.workflow}" in caplog.text)
    assert "it is that of the workflow 'w'" in caplog.text


@pytest.mark.parametrize("body", BODIES)
def test_a_body_without_arguments_is_shown_as_its_size(tmp_path: Path, body: bytes) -> None:
    with app_on(f"sqlite:///{tmp_path / 'queue.db'}") as app:
        bad = Message(id=new_id(), task="shop.add", queue="idle", body=body)
        app.broker.publish([bad])
        assert f"({len(body):,} bytes" in call_text(bad, app)
        for arguments in (["queues", "peek", "idle"], ["queues", "peek", "idle", "--json"], ["tasks", "show", bad.id]):
            done = command(app, *arguments)
            assert (done.exit_code, bad.id in done.stdout) == (0, True), done.output


async def test_links_with_bad_values_are_refused_with_their_message(tmp_path: Path) -> None:
    with app_on(f"sqlite:///{tmp_path / 'queue.db'}") as app:
        bad = Message(id=new_id(), task="shop.add", due_at=float("nan"))
        app.broker.publish([call(link=[Link(bad)], task="unknown")])
        with running_worker(app):
            wait_for(lambda: app.broker.complete(dead(app)))
            assert works(app)
        ((_, reason),) = await dead(app)
        assert reason.startswith("it cannot be read: not a message: ")


async def test_a_place_on_a_backend_that_keeps_no_workflows_is_settled(place: Vhost) -> None:
    with app_on(place.url, result_backend="rpc://") as app:
        app.broker.publish([call(place=Place("x", 0)), call(place=Place("x", 1, 0))])
        with running_worker(app):
            assert works(app)
            wait_for(lambda: _active(app) == 0)
        assert await dead(app) == []


def _active(app: Celeriac) -> int:
    return sum(counts.ready + counts.active for counts in app.broker.complete(app.broker.operations().queues()))


# --- Control commands ---------------------------------------------------------------------------------


async def test_bytes_that_are_no_command_are_ignored(app: Celeriac, caplog: pytest.LogCaptureFixture) -> None:
    with running_worker(app):
        for payload in COMMANDS.values():
            await app.broker.broadcast(CHANNEL, [payload])
        assert (await Inspector(app, timeout=PATIENCE).ping()).values
        assert works(app)
    assert caplog.text.count("Ignored a control command that cannot be read: ") == len(COMMANDS)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("log_level", {"level": 5}),
        ("log_level", {"level": "loud"}),
        ("add_consumer", {"queue": 5}),
        ("add_consumer", {"queue": ""}),
        ("cancel_consumer", {"queue": ["default"]}),
        ("time_limit", {"task": "shop.add", "soft": "x"}),
        ("time_limit", {"task": "shop.add", "hard": 1e300}),
        ("time_limit", {"task": "shop.add", "soft": -1}),
        ("rate_limit", {"task": "shop.add", "rate": "1" + " " * 120_000 + "x"}),
        ("rate_limit", {"task": "shop.add", "rate": [1]}),
        ("rate_limit", {"task": "nobody", "rate": "1/s"}),
        ("pool_grow", {"n": 1_000_000}),
        ("pool_grow", {"n": 10**18}),
        ("pool_grow", {"n": "many"}),
        ("pool_shrink", {"n": -1}),
        ("terminate", {"ids": "x"}),
        ("terminate", {"ids": [5]}),
        ("terminate", {}),
        ("ping", {"more": 1}),
        ("shutdown", {"now": True}),
        ("no_such", {}),
    ],
)
async def test_a_command_with_wrong_arguments_is_refused_and_changes_nothing(
    app: Celeriac, name: str, arguments: dict[str, Any]
) -> None:
    level = logging.getLogger("celeriac").level
    with running_worker(app) as worker:
        replies = await Inspector(app, timeout=PATIENCE).ask(name, arguments)
        assert [reply.error is not None and len(reply.error) < 1000 for reply in replies.values()] == [True]
        assert (worker.receiver.limits, worker.receiver.rates, worker.receiver.queues) == ({}, {}, ["default"])
        assert worker.pool.capacity()["plain"] == 2
        assert logging.getLogger("celeriac").level == level
        assert works(app)


async def test_a_worker_without_remote_control_obeys_no_command(tmp_path: Path) -> None:
    with app_on(f"sqlite:///{tmp_path / 'queue.db'}", worker_remote_control=False) as app:
        with running_worker(app) as worker:
            await app.control.send("shutdown")
            assert await Inspector(app, timeout=0.5).ask("ping") == {}
            assert works(app)
            assert worker.name


async def test_an_outcome_is_sent_to_no_queue_but_a_reply_queue(
    place: Vhost, caplog: pytest.LogCaptureFixture
) -> None:
    with app_on(place.url, result_backend="rpc://") as app:
        app.broker.publish([Message(id=new_id(), task="shop.add", queue="payments")])  # declares that queue
        app.broker.publish([call(reply_to="payments"), call(reply_to="celeriac.dead")])
        with running_worker(app, queues=["default"]):
            assert works(app)
            wait_for(lambda: caplog.text.count("which is not a reply queue") == 2)
        (counts,) = [one for one in await app.broker.operations().queues() if one.queue == "payments"]
        assert counts.ready == 1
