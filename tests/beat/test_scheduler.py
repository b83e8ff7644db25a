"""Schedulers on every store: each tick is sent once, workflows too, and nothing is kept in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, chain, chord, group
from celeriac.errors import CeleriacError, ImproperlyConfigured
from celeriac.model.message import new_id
from celeriac.schedules.intervals import every
from celeriac.testing import running_worker
from tests.patience import PATIENCE, eventually


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The settings that name a broker and a backend."""
    if request.param == "memory":
        return {"broker_url": f"memory://{new_id()}"}
    if request.param == "sqlite":
        return {"broker_url": f"sqlite:///{tmp_path / 'queue.db'}"}
    if request.param == "redis":
        return {"broker_url": request.getfixturevalue("redis").url}
    return {"broker_url": request.getfixturevalue("place").url, "result_backend": f"sqlite:///{tmp_path / 'r.db'}"}


@pytest.fixture
def app(urls: dict[str, str]) -> Iterator[Celeriac]:
    with app_on(urls) as made:
        yield made


@contextmanager
def app_on(urls: dict[str, str], **settings: Any) -> Iterator[Celeriac]:
    app = Celeriac("shop", broker_publish_timeout=PATIENCE, **urls, **settings)
    app.ran = []  # type: ignore[attr-defined]

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="shop.note")
    def note(value: Any = None) -> Any:
        app.ran.append(value)  # type: ignore[attr-defined]
        return value

    yield app
    app.close()


@asynccontextmanager
async def beating(*apps: Celeriac) -> Any:
    """Run a scheduler of each app while the block lasts."""
    running = [asyncio.ensure_future(app.beat(f"beat{number}")) for number, app in enumerate(apps)]
    try:
        yield
    finally:
        for one in running:
            assert not one.done(), one.exception()
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def ran(app: Celeriac) -> list[Any]:
    found: list[Any] = app.ran  # type: ignore[attr-defined]
    return found


async def recorded(app: Celeriac, name: str, count: int) -> None:
    """Return once the store says that so many ticks were sent. Beside another broker, it says so after they ran."""
    await eventually(lambda: app.schedules.get(name).sent == count, f"the record of {count} ticks")


async def test_each_tick_is_sent_once_by_three_schedulers(app: Celeriac, urls: dict[str, str]) -> None:
    note = app.tasks["shop.note"]
    begun = time.monotonic()
    await app.schedules.aadd("often", every(0.2), note.s("x"), missed="all", times=10)
    with app_on(urls) as second, app_on(urls) as third, running_worker(app):
        async with beating(app, second, third):
            await recorded(app, "often", 10)
            assert time.monotonic() - begun >= 9 * 0.2 - 0.1  # the clocks of the store and of this process may differ
        await note.adelay("after")
        await eventually(lambda: "after" in ran(app))
    assert sorted(ran(app)) == ["after"] + ["x"] * 10
    assert (await app.schedules.aget("often")).problem == ""


async def test_previous_ticks_are_told_with_the_ids_of_what_they_sent(app: Celeriac) -> None:
    note = app.tasks["shop.note"]
    await app.schedules.aadd("often", every(0.2), note.s("x"), missed="all", times=3)
    assert await app.schedules.aprevious("often") == []
    with running_worker(app):
        async with beating(app):
            await recorded(app, "often", 3)
        ticks = await app.schedules.aprevious("often")
        assert [tick.at for tick in ticks] == sorted({tick.at for tick in ticks}, reverse=True)
        ids = [id for tick in ticks for id in tick.ids]
        assert len(ids) == 3
        assert ids[0] == (await app.schedules.aget("often")).last_id
        await eventually(lambda: app.backend.fetch(ids).keys() == set(ids))
    assert len(await app.schedules.aprevious("often", 1)) == 1


async def test_a_workflow_is_sent_at_each_tick_and_each_has_its_own_ids(app: Celeriac) -> None:
    add, note = app.tasks["shop.add"], app.tasks["shop.note"]
    sums = chord([add.s(1, 1), chain(add.s(2, 2), add.s(10))], note.s())
    await app.schedules.aadd("sums", every(0.3), sums, missed="all", times=3)
    with running_worker(app):
        async with beating(app):
            await recorded(app, "sums", 3)
            assert (await app.schedules.aget("sums")).next_at is None
            await eventually(lambda: len(ran(app)) == 3)
    assert ran(app) == [[2, 14]] * 3


async def test_a_group_is_over_when_all_of_it_is(app: Celeriac) -> None:
    note = app.tasks["shop.note"]
    await app.schedules.aadd("both", every(0.2), group(note.s(1), note.s(2)), overlap="skip", times=2)
    with running_worker(app):
        async with beating(app):
            await eventually(lambda: len(ran(app)) == 4)
    assert sorted(ran(app)) == [1, 1, 2, 2]


async def test_ticks_that_were_missed_while_no_scheduler_ran_are_sent_when_one_does(app: Celeriac) -> None:
    note = app.tasks["shop.note"]
    await app.schedules.aadd("all", every(0.1), note.s("all"), missed="all", times=5)
    await app.schedules.aadd("latest", every(0.1), note.s("latest"), times=1)
    await asyncio.sleep(1)  # the time that is missed
    with running_worker(app):
        async with beating(app):
            await recorded(app, "all", 5)
            await recorded(app, "latest", 1)
            await eventually(lambda: len(ran(app)) == 6)
    assert sorted(ran(app)) == ["all"] * 5 + ["latest"]
    assert (await app.schedules.aget("latest")).missed >= 8


async def test_what_code_declares_is_in_the_store_and_goes_with_the_code(urls: dict[str, str]) -> None:
    schedule = {"often": {"task": "shop.note", "schedule": 0.2, "args": ("declared",), "overlap": "allow"},
                "rarely": {"task": "shop.note", "schedule": 3600.0}}  # fmt: skip
    with app_on(urls, beat_schedule=schedule) as app:
        app.add_periodic_task(every(1800), app.tasks["shop.add"].s(1, 2), name="added")
        await app.schedules.aadd("by hand", every(3600), app.tasks["shop.note"].s())
        with running_worker(app):
            async with beating(app):
                await eventually(lambda: "declared" in ran(app))
        before = {info.name: info for info in await app.schedules.alist()}
        assert list(before) == ["added", "by hand", "often", "rarely"]
    with app_on(urls, beat_schedule={"rarely": {"task": "shop.note", "schedule": 3600.0}}) as app:
        scheduler = app.scheduler()
        await scheduler.turn()
        after = {info.name: info for info in await app.schedules.alist()}
        assert list(after) == ["by hand", "rarely"]
        assert after["rarely"] == before["rarely"]


async def test_an_edit_is_in_force_within_a_second(app: Celeriac) -> None:
    note = app.tasks["shop.note"]
    await app.schedules.aadd("x", every(3600), note.s("old"))
    with running_worker(app):
        async with beating(app):
            await app.schedules.achange("x", every(0.2), note.s("new"))
            await eventually(lambda: ran(app))
            await app.schedules.apause("x")
            assert (await app.schedules.aget("x")).paused
            await app.schedules.aresume("x")
            count = len(ran(app))
            await eventually(lambda: len(ran(app)) > count + 1)
            await app.schedules.aremove("x")
    assert set(ran(app)) == {"new"}
    assert await app.schedules.alist() == []


async def test_it_can_be_run_by_hand(app: Celeriac) -> None:
    await app.schedules.aadd("x", every(3600), app.tasks["shop.add"].s(1, 2) | app.tasks["shop.add"].s(3))
    with running_worker(app):
        id = await app.schedules.arun("x")
        assert await app.AsyncResult(id).aget(timeout=PATIENCE) == 6


def test_a_mistake_is_an_error_where_it_is_made(app: Celeriac) -> None:
    note = app.tasks["shop.note"]
    for wrong, why in (
        (lambda: app.schedules.add("x", "99 * * * *", note.s()), "99"),
        (lambda: app.schedules.add("x", every(1), note.s(), overlaps="skip"), "Did you mean 'overlap'"),
        (lambda: app.schedules.add("x", every(1), note.s(), overlap="never"), "one of allow"),
        (lambda: app.schedules.add("x", every(1), "shop.note"), "not 'shop.note'"),
        (lambda: app.schedules.get("x"), "There is no schedule named 'x'"),
        (lambda: app.schedules.add("x", every(1), app.tasks["shop.add"].s(1)), "y"),
        (lambda: app.schedules.add("x", every(1), note.s(), window=-1), "window: 0 seconds or more, not -1"),
        (lambda: app.schedules.add("x", every(1), note.s(), jitter=-1), "jitter: 0 seconds or more"),
        (lambda: app.schedules.add("x", every(1), note.s(), overlap_timeout=-1), "overlap_timeout: 0 seconds or more"),
        (lambda: app.schedules.add("x", every(1), note.s(), max_missed=10_001), "at most 10,000, not 10001"),
        (lambda: app.schedules.add("x", every(1), note.s(), times=1 << 64), "times: .* at most"),
        (lambda: app.schedules.add("x", every(1), note.s(), description="\ud800"), "description must be text"),
        (lambda: app.schedules.add("", every(1), note.s()), "The name of a schedule must be a non-empty string"),
        (lambda: app.schedules.add("x" * 1001, every(1), note.s()), "at most 1,000 characters"),
        (lambda: app.schedules.add("x\0", every(1), note.s()), "a NUL character"),
        (lambda: app.schedules.add("\ud800", every(1), note.s()), "UTF-8"),
        (lambda: app.schedules.add(3, every(1), note.s()), "must be a non-empty string, not 3"),  # type: ignore[arg-type]
    ):
        with pytest.raises(CeleriacError, match=why):
            wrong()
    app.schedules.add("x", every(1000), note.s())
    with pytest.raises(ImproperlyConfigured, match="already"):
        app.schedules.add("x", every(1), note.s())
