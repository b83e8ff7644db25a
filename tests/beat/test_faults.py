"""Schedulers among faults: claims that run out, edits at a bad moment, servers that refuse or lose what they had."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, chord, group, states
from celeriac.beat import scheduler as scheduling
from celeriac.beat.definition import definition_of
from celeriac.canvas.tree import decode_tree
from celeriac.drivers.memory.schedules import MemoryScheduleStore
from celeriac.errors import BackendError, BackendUnavailable, BrokerUnavailable, UnknownOption, Unstorable
from celeriac.model.message import Message, new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.schedules import Change, Due
from celeriac.ports.workflows import NodeEnd, Plan, workflow_store
from celeriac.schedules.intervals import every
from celeriac.testing import running_worker
from tests.beat.test_scheduler import app_on, beating, ran
from tests.clock import FakeClock
from tests.patience import PATIENCE, eventually

DAY = 86_400


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(clock: FakeClock) -> Any:
    with app_on({"broker_url": f"memory://{new_id()}"}, clock=clock) as made:
        yield made


async def waiting(app: Celeriac) -> list[Message]:
    """Return the messages of the queue."""
    return await app.broker.operations().peek("default", 100_000)


async def is_empty(app: Celeriac) -> bool:
    counts = await app.broker.operations().queues()
    return not any(count.ready + count.active + count.scheduled for count in counts)


# --- Claims, where the broker is another server --------------------------------------------------------


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    return {"broker_url": request.getfixturevalue("place").url, "result_backend": f"sqlite:///{tmp_path / 'r.db'}"}


async def test_a_scheduler_that_goes_on_after_its_claim_ran_out_makes_nothing_run_twice(
    urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "CLAIM_SECONDS", 0.0)
    with app_on(urls) as frozen, app_on(urls) as other, running_worker(other):
        await frozen.schedules.aadd("once", every(0.01), frozen.tasks["shop.note"].s("tick"), times=1)
        publish = frozen.broker.apublish

        async def freeze(messages: Sequence[Message], again: bool = False) -> None:
            await other.scheduler("other").turn()
            await eventually(lambda: ran(other))
            await eventually(lambda: other.AsyncResult(messages[0].id).ready())
            await publish(messages, again)

        monkeypatch.setattr(frozen.broker, "apublish", freeze)
        await eventually(lambda: frozen.schedules.get("once").next_at, "its time")
        time.sleep(0.05)
        await frozen.scheduler("frozen").turn()
        await other.tasks["shop.note"].adelay("after")
        await eventually(lambda: "after" in ran(other))
        assert ran(other) == ["tick", "after"]
        assert (await other.schedules.aget("once")).sent == 1


async def test_a_scheduler_that_goes_on_late_takes_nothing_back_from_a_workflow_that_has_begun(
    urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "CLAIM_SECONDS", 0.0)
    go = threading.Event()
    with app_on(urls) as frozen, app_on(urls) as other:
        for app in (frozen, other):
            app.task(name="shop.hold")(lambda: go.wait(PATIENCE))
        with running_worker(other):
            note, hold = frozen.tasks["shop.note"], frozen.tasks["shop.hold"]
            held = chord([note.s("tick"), hold.s()], note.s())
            await frozen.schedules.aadd("once", every(0.01), held, times=1)
            plant, publish = frozen.backend.aplant, other.broker.apublish
            sent: list[str] = []

            async def note_ids(messages: Sequence[Message], again: bool = False) -> None:
                sent.extend(message.id for message in messages)
                await publish(messages, again)

            async def freeze(plan: Plan, again: bool = False) -> None:
                await other.scheduler("other").turn()
                await eventually(lambda: other.AsyncResult(sent[0]).ready())  # one of the two has been counted
                await plant(plan, again)

            monkeypatch.setattr(other.broker, "apublish", note_ids)
            monkeypatch.setattr(frozen.backend, "aplant", freeze)
            await eventually(lambda: frozen.schedules.get("once").next_at, "its time")
            time.sleep(0.05)
            await frozen.scheduler("frozen").turn()
            go.set()
            await eventually(lambda: ["tick", True] in ran(other), "the body of the chord")
            assert ran(other) == ["tick", ["tick", True]]


@pytest.mark.parametrize("away", ["broker", "backend"])
async def test_a_claim_that_could_not_be_published_is_given_up_at_once(
    urls: dict[str, str], monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    with app_on(urls) as app:
        note = app.tasks["shop.note"]
        await app.schedules.aadd("once", every(0.01), chord([note.s(1), note.s(2)], note.s()), times=1)
        lost = BrokerUnavailable("cut off") if away == "broker" else BackendUnavailable("cut off")

        async def fail(sent: Any, again: bool = False) -> None:
            raise lost

        time.sleep(0.05)
        with monkeypatch.context() as patch:
            patch.setattr(*((app.broker, "apublish") if away == "broker" else (app.backend, "aplant")), fail)
            with pytest.raises(type(lost)):
                await app.scheduler("one").turn()
        await app.scheduler("another").turn()
        assert (await app.schedules.aget("once")).sent == 1


# --- Edits -----------------------------------------------------------------------------------------------


async def test_a_tick_has_the_same_id_after_an_edit_of_what_is_sent(app: Celeriac) -> None:
    note, add = app.tasks["shop.note"], app.tasks["shop.add"]

    async def ends() -> list[str]:
        (entry,) = (await app.schedules.store.get(["x"])).values()
        return definition_of(entry).what.ends_at(entry.salt, 5_000)

    await app.schedules.aadd("x", every(1), note.s("old"))
    old = await ends()
    for what in (note.s("new"), add.s(1, 2)):
        await app.schedules.achange("x", every(2), what)
        assert await ends() == old


async def test_an_edit_by_a_clock_that_is_behind_sends_no_tick_again(app: Celeriac, clock: FakeClock) -> None:
    await app.schedules.aadd("x", every(10), app.tasks["shop.note"].s(), missed="all")
    scheduler = app.scheduler()
    clock.advance(100)
    await scheduler.turn()
    assert len(await waiting(app)) == 10
    clock.advance(-60)
    await app.schedules.apause("x")
    await app.schedules.aresume("x")
    await app.schedules.achange("x", every(5))
    for _ in range(60):
        await scheduler.turn()
        clock.advance(1)
    assert len(await waiting(app)) == 10
    clock.advance(5)
    await scheduler.turn()
    assert len({message.id for message in await waiting(app)}) == 11


async def test_a_clock_that_steps_back_and_forth_sends_each_tick_once(app: Celeriac, clock: FakeClock) -> None:
    begun = clock.now()
    await app.schedules.aadd("x", every(10), app.tasks["shop.note"].s(), missed="all")
    schedulers = [app.scheduler("one"), app.scheduler("two")]
    for step in (15, -15, 300, -3600, 5, 3700, -100, 250):
        clock.advance(step)
        for scheduler in schedulers:
            await scheduler.turn()
    passed = 555  # until the furthest that the clock was
    info = await app.schedules.aget("x")
    assert info.last_at is not None
    assert info.last_at.timestamp() - begun == passed // 10 * 10
    assert (info.sent, info.missed, len(await waiting(app))) == (passed // 10, 0, passed // 10)


# --- Two servers, and servers that refuse ------------------------------------------------------------


async def test_a_workflow_is_sent_where_the_broker_keeps_schedules_and_another_server_the_outcomes(
    tmp_path: Path,
) -> None:
    urls = {"broker_url": f"memory://{new_id()}", "result_backend": f"sqlite:///{tmp_path / 'results.db'}"}
    with app_on(urls) as app, running_worker(app):
        add, note = app.tasks["shop.add"], app.tasks["shop.note"]
        await app.schedules.aadd("sums", every(0.1), chord([add.s(1, 1), add.s(2, 2)], note.s()), times=2)
        async with beating(app):
            await eventually(lambda: ran(app) == [[2, 4], [2, 4]])


async def test_what_the_broker_refuses_holds_up_no_other_schedule(
    app: Celeriac, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = app.tasks["shop.note"]
    for number in range(20):
        await app.schedules.aadd(f"good{number}", every(10), note.s("good"))
    await app.schedules.aadd("bad", every(10), note.s("bad").set(headers={"bad": True}), missed="all")
    change = MemoryScheduleStore.change

    async def refuse(self: MemoryScheduleStore, changes: Sequence[Change]) -> list[bool]:
        if any("bad" in message.headers for one in changes for message in one.messages):
            raise Unstorable("too bad")
        return await change(self, changes)

    monkeypatch.setattr(MemoryScheduleStore, "change", refuse)
    scheduler = app.scheduler()
    clock.advance(10)
    while await scheduler.turn() == 0:
        pass
    assert len(await waiting(app)) == 20
    monkeypatch.setattr(MemoryScheduleStore, "change", change)
    clock.advance(60)
    while await scheduler.turn() == 0:
        pass
    assert (await app.schedules.aget("bad")).sent == 7


async def test_after_a_long_time_no_step_sends_more_than_a_server_can_take(
    app: Celeriac, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "MESSAGES", 50)
    for number in range(20):
        await app.schedules.aadd(f"x{number}", every(1), app.tasks["shop.note"].s(), missed="all")
    clock.advance(40)
    change = MemoryScheduleStore.change
    sizes = []

    async def measure(self: MemoryScheduleStore, changes: Sequence[Change]) -> list[bool]:
        sizes.append(sum(len(one.messages) for one in changes))
        return await change(self, changes)

    monkeypatch.setattr(MemoryScheduleStore, "change", measure)
    await app.scheduler().turn()
    assert sizes == [80] * 10


async def test_declared_schedules_that_a_server_has_lost_are_there_again_after_its_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = {name: {"task": "shop.note", "schedule": 3600.0} for name in ("one", "two")}
    with app_on({"broker_url": f"memory://{new_id()}"}, beat_schedule=schedule) as app:
        due = MemoryScheduleStore.due
        outages = []

        async def fail(self: MemoryScheduleStore, limit: int) -> Due:
            if not outages:
                return await due(self, limit)
            outages.pop()
            raise BrokerUnavailable("restarting")

        monkeypatch.setattr(MemoryScheduleStore, "due", fail)
        async with beating(app):
            await eventually(lambda: len(app.schedules.list()) == 2)
            two = await app.schedules.aget("two")
            await app.schedules.aadd("three", every(3600), app.tasks["shop.note"].s())
            await app.schedules.aremove("one")
            outages.append("once")
            await eventually(lambda: [info.name for info in app.schedules.list()] == ["one", "three", "two"])
            assert await app.schedules.aget("two") == two


async def test_where_nothing_keeps_schedules_a_scheduler_says_so_at_once() -> None:
    with app_on({"broker_url": "amqp://localhost", "result_backend": "rpc://"}) as app:
        with pytest.raises(BackendError, match="keeps schedules"):
            await app.beat()


# --- Ends that nobody can tell any more --------------------------------------------------------------


async def test_a_schedule_that_minds_overlaps_sees_the_ends_of_tasks_that_ignore_their_results() -> None:
    with app_on({"broker_url": f"memory://{new_id()}"}) as app, running_worker(app):
        quiet = app.tasks["shop.note"].s("x").set(ignore_result=True)
        await app.schedules.aadd("x", every(0.1), quiet, overlap="skip", times=3)
        async with beating(app):
            await eventually(lambda: len(ran(app)) == 3)


async def test_a_schedule_that_minds_overlaps_goes_on_when_the_last_outcome_is_not_kept_any_more(
    app: Celeriac, clock: FakeClock
) -> None:
    await app.schedules.aadd("x", every(DAY), app.tasks["shop.note"].s("x"), overlap="skip")
    scheduler = app.scheduler()
    clock.advance(DAY)
    await scheduler.turn()
    clock.advance(2 * DAY)
    await scheduler.turn()
    assert (await app.schedules.aget("x")).sent == 1  # it waits in the queue
    with running_worker(app):
        await eventually(lambda: ran(app))
        await eventually(lambda: app.AsyncResult(app.schedules.get("x").last_id).ready())
    await app.backend.aforget([(await app.schedules.aget("x")).last_id])
    clock.advance(DAY)
    await scheduler.turn()
    assert (await app.schedules.aget("x")).sent == 2


async def test_a_workflow_that_overlaps_ends_as_a_whole_and_its_error_callback_runs(
    app: Celeriac, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, add = app.tasks["shop.note"], app.tasks["shop.add"]
    whole = group(add.si(1, 1), add.si(1, 1)) | chord([note.s(), note.si(2)], note.si(3)).on_error(note.si("stopped"))
    await app.schedules.aadd("sums", every(10), whole, overlap="cancel")
    scheduler = app.scheduler()
    clock.advance(10)
    await scheduler.turn()
    ended, begun = await waiting(app)
    end = Outcome(id=ended.id, task=ended.task, state=states.SUCCESS, value=b"2", place=ended.place)
    await workflow_store(app.backend).conclude([NodeEnd(end)])
    revoked: list[str] = []
    revoke = app.broker.revoke

    async def noted(ids: Sequence[str], until: float) -> None:
        revoked.extend(ids)
        await revoke(ids, until)

    monkeypatch.setattr(app.broker, "revoke", noted)
    clock.advance(10)
    await scheduler.turn()
    assert begun.place is not None
    steps = [step.id for _, step in app.workflow(begun.place.workflow).tree.steps()]
    assert sorted(revoked) == sorted({*steps} - {ended.id})
    with running_worker(app):
        await eventually(lambda: len(ran(app)) == 4)
        await eventually(lambda: is_over(app, steps))
    assert sorted(map(str, ran(app))) == ["2", "3", "[2, 2]", "stopped"]
    assert {app.AsyncResult(id).state for id in steps if id != ended.id} == {states.REVOKED}


def is_over(app: Celeriac, ids: Sequence[str]) -> bool:
    found = app.backend.fetch(ids)
    return len(found) == len(ids) and all(outcome.ready for outcome in found.values())


async def test_delays_and_expiry_of_linked_tasks_count_from_when_they_are_sent(app: Celeriac, clock: FakeClock) -> None:
    note = app.tasks["shop.note"]
    after = note.si("after").set(countdown=30, expires=60)
    failed = note.si("failed").set(expires=20)
    what = note.s("x").set(link=after, link_error=failed, countdown=15, expires=25)
    await app.schedules.aadd("x", every(10), what)
    clock.advance(DAY)
    await app.scheduler().turn()
    (tick,) = await app.broker.operations().scheduled("default", 10)
    (link,), (error,) = tick.link, tick.link_error
    assert tick.due_at is not None
    at = tick.due_at - 15
    assert clock.now() - 10 < at <= clock.now()
    assert tick.expires_at == at + 25
    sent = link.sent(at + 100)
    assert (sent.due_at, sent.expires_at) == (at + 130, at + 160)
    sent = error.sent(at + 100)
    assert (sent.due_at, sent.expires_at) == (None, at + 120)


@pytest.mark.parametrize("name", ["link", "link_error"])
async def test_an_instant_in_a_linked_task_is_refused(app: Celeriac, name: str) -> None:
    note = app.tasks["shop.note"]
    for option in ("eta", "expires"):
        linked = note.s().set(**{option: datetime(2040, 1, 1, tzinfo=UTC)})
        with pytest.raises(UnknownOption, match=f"{option} cannot be an instant"):
            await app.schedules.aadd("x", every(DAY), note.s("x").set(**{name: linked}))


async def test_an_error_callback_of_a_workflow_that_is_sent_long_after_it_was_declared_has_not_expired(
    app: Celeriac, clock: FakeClock
) -> None:
    note = app.tasks["shop.note"]
    steps = note.s("x") | note.s().on_error(note.si("failed").set(expires=20))
    await app.schedules.aadd("x", every(DAY), steps)
    clock.advance(DAY)
    await app.scheduler().turn()
    (message,) = await waiting(app)
    assert message.place is not None
    trees = workflow_store(app.backend).trees([message.place.workflow])
    tree = decode_tree(trees[message.place.workflow])
    (link,) = [link for _, step in tree.steps() for link in step.message.link_error]
    assert (link.message.task, link.message.expires_at) == ("shop.note", None)
