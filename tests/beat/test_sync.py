"""Schedulers bring what code declares into the store: in small steps, and again when the store has lost it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from celeriac import chain, group
from celeriac.beat import sync
from celeriac.drivers.memory.schedules import MemoryScheduleStore
from celeriac.drivers.sqlite.schedules import SQLiteScheduleStore
from celeriac.errors import ImproperlyConfigured
from celeriac.model.message import new_id
from celeriac.ports.schedules import Entry, ScheduleStore
from celeriac.schedules.intervals import every
from tests.beat.test_scheduler import app_on, beating
from tests.patience import eventually
from tests.redis_server import RedisServer

HOURLY = {"task": "shop.note", "schedule": 3600.0}


def lose_redis(request: pytest.FixtureRequest, _: Path) -> tuple[str, Callable[[], Any]]:
    server: RedisServer = request.getfixturevalue("redis")
    return server.url, lambda: server.ask("FLUSHALL")


def lose_sqlite(_: pytest.FixtureRequest, folder: Path) -> tuple[str, Callable[[], Any]]:
    return f"sqlite:///{folder / 'queue.db'}", (folder / "queue.db").unlink


@pytest.fixture(params=[lose_redis, lose_sqlite])
def losing(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Callable[[], Any]]:
    """The URL of a broker, and a function that makes it lose all that it has, while it goes on."""
    url, lose = request.param(request, tmp_path)
    return url, lose


async def test_what_code_declares_is_there_again_when_the_store_has_lost_it(
    losing: tuple[str, Callable[[], Any]], caplog: pytest.LogCaptureFixture
) -> None:
    url, lose = losing
    with app_on({"broker_url": url}, beat_schedule={"one": HOURLY, "two": HOURLY}) as app:
        async with beating(app, app):
            for _ in range(2):
                await eventually(lambda: len(app.schedules.list()) == 2)
                lose()
                assert app.schedules.list() == []
            await eventually(lambda: [info.name for info in app.schedules.list()] == ["one", "two"])


async def test_a_store_that_lost_all_gets_the_newest_release_again(losing: tuple[str, Callable[[], Any]]) -> None:
    """Also if a scheduler of an older one notices first."""
    url, lose = losing
    with (
        app_on({"broker_url": url}, beat_schedule={"old": HOURLY}) as older,
        app_on({"broker_url": url}, beat_schedule={"new": HOURLY}) as newer,
    ):
        old, new = older.scheduler("old"), newer.scheduler("new")
        for scheduler in (old, new, old):
            scheduler.sync._looks_at = 0.0
            await scheduler.turn()
        lose()
        for scheduler in (old, new):
            scheduler.sync._looks_at = 0.0
            await scheduler.turn()
        assert [info.name for info in await newer.schedules.alist()] == ["new"]


async def test_what_was_changed_by_hand_stays_while_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "LOOKS", 0.0)
    with app_on({"broker_url": f"memory://{new_id()}"}, beat_schedule={"one": HOURLY, "two": HOURLY}) as app:
        scheduler = app.scheduler()
        await scheduler.turn()
        await app.schedules.achange("one", every(1))
        await app.schedules.aremove("two")
        for _ in range(3):
            await scheduler.turn()
        assert [info.schedule for info in await app.schedules.alist()] == ["every(1)"]
        await app.scheduler("another").turn()
        assert [info.schedule for info in await app.schedules.alist()] == ["every(hours=1)"] * 2


async def test_the_event_loop_runs_between_the_steps_of_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the order of what happens: no step takes many entries, and others have their turn after each."""
    events: list[str] = []

    def watched(name: str) -> Callable[..., Any]:
        call = getattr(SQLiteScheduleStore, name)

        async def noted(self: ScheduleStore, *given: Any) -> Any:
            found = await call(self, *given)
            size = len(given[0]) if name == "create" else len(found)
            if size > 1:
                events.append(f"{name} {size}")
            return found

        return noted

    with app_on({"broker_url": f"sqlite:///{tmp_path / 'queue.db'}"}) as app:
        note = app.tasks["shop.note"]
        for number in range(2_000):
            app.add_periodic_task(every(3600), note.s(number), name=f"x{number}")
        app.conf.timezone = "Europe/Berlin"  # so that their definitions are made again
        for _ in range(2):
            for name in ("create", "page"):
                monkeypatch.setattr(SQLiteScheduleStore, name, watched(name))
            starting = asyncio.ensure_future(app.scheduler().turn())
            while not starting.done():
                events.append("others")
                await asyncio.sleep(0)
            monkeypatch.undo()
    steps = [event for event in events if event != "others"]
    assert steps.count("create 500") == 4
    assert steps.count("page 500") == 4
    assert all(int(step.split()[1]) <= 501 for step in steps)
    assert all("others" in pair for pair in pairwise(events))
    assert events.index(steps[0]) >= 2_000 / sync.MADE


async def test_a_start_writes_nothing_if_all_is_as_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    with app_on({"broker_url": f"memory://{new_id()}"}) as app:
        note, add = app.tasks["shop.note"], app.tasks["shop.add"]
        for name, what in (
            ("task", note.s(1)), ("links", note.s(1).set(link=note.s(), link_error=note.s())),
            ("chain", chain(add.s(1, 2), add.s(3))), ("group", group(note.s(1), note.s(2)) | note.s()),
        ):  # fmt: skip
            app.add_periodic_task(every(3600), what, name=name, overlap="skip")
        await app.scheduler().turn()
        before = await app.schedules.store.page("", 10)
        app.declared.forget()

        async def refuse(self: Any, given: Sequence[Any]) -> list[bool]:
            raise AssertionError(given)

        for name in ("create", "change", "remove"):
            monkeypatch.setattr(MemoryScheduleStore, name, refuse)
        await app.scheduler("another").turn()
        assert await app.schedules.store.page("", 10) == before


PRINTS_DIGEST = """
import asyncio
from celeriac import Celeriac, crontab, group
from celeriac.beat.sync import Sync

app = Celeriac("shop", broker_url="memory://", beat_schedule={
    name: {"task": "shop.note", "schedule": 60, "kwargs": {"b": name, "a": 1}} for name in sorted({"x", "y", "z", "w"})
})

@app.task(name="shop.note", schedule=crontab(minute=0))
def note(value=None, a=None, b=None): ...

app.add_periodic_task(30, group(note.s(1), note.s(2)) | note.s(), name="workflow")
sync = Sync(app.declared)
asyncio.run(sync._prepare())
print(sync._digest.hex())
"""


def test_the_same_code_is_the_same_release_in_every_process() -> None:
    found = {
        subprocess.run([sys.executable, "-c", PRINTS_DIGEST], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                       capture_output=True, text=True, timeout=60).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert len(found.pop().strip()) == 32


async def test_a_declared_entry_whose_bytes_are_damaged_is_left_alone_and_holds_up_no_other(tmp_path: Path) -> None:
    with app_on({"broker_url": f"sqlite:///{tmp_path / 'queue.db'}"}, beat_schedule={"a": HOURLY, "b": HOURLY}) as app:
        store = app.schedules.store
        assert isinstance(store, SQLiteScheduleStore)
        await store.create([Entry(name="a", cursor=0)])
        store._database.write(lambda connection: connection.execute("UPDATE schedules SET entry = x'c1'"))
        await app.scheduler().turn()
        assert [info.name for info in await app.schedules.alist()] == ["b"]


def test_names_that_records_have_are_refused() -> None:
    with app_on({"broker_url": f"memory://{new_id()}"}) as app, pytest.raises(ImproperlyConfigured, match="control"):
        app.schedules.add("\x01shop", every(1), app.tasks["shop.note"].s())


@pytest.mark.parametrize("name", ["", "x" * 1001])
def test_names_that_no_store_could_read_again_are_refused(name: str) -> None:
    with app_on({"broker_url": f"memory://{new_id()}"}) as app:
        note = app.tasks["shop.note"]
        with pytest.raises(ImproperlyConfigured, match="The name of a schedule must"):
            app.schedules.add(name, every(1), note.s())
        app.conf.beat_schedule = {name: {"task": "shop.note", "schedule": 1.0}}
        with pytest.raises(ImproperlyConfigured, match="The name of a schedule must"):
            list(app.declared.definitions())


def test_a_schedule_with_a_call_too_long_for_a_name_asks_for_one() -> None:
    with app_on({"broker_url": f"memory://{new_id()}"}) as app:
        long = app.tasks["shop.note"].s("x" * 1001)
        with pytest.raises(ImproperlyConfigured, match="must have at most 1,000 characters"):
            app.add_periodic_task(every(1), long)
        app.add_periodic_task(every(1), long, name="long")


def test_what_is_declared_is_what_it_was_when_it_was_declared() -> None:
    with app_on({"broker_url": f"memory://{new_id()}"}) as app:
        what = app.tasks["shop.note"].s("declared")
        app.add_periodic_task(every(1), what, name="x")
        before = dict(app.declared.definitions())
        what.set(priority=9)
        app.declared.forget()
        assert dict(app.declared.definitions()) == before
