"""Faults of Celery's beat that have been open for years: each as a test that passes here.

The number is that of the issue in celery/celery. In most tests a fake clock lets days pass, and the ticks are read from
the signal that a scheduler sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celeriac import Celeriac, signals
from celeriac.beat.scheduler import Scheduler
from celeriac.model.message import new_id
from celeriac.schedules.crontab import crontab
from celeriac.schedules.intervals import every
from celeriac.testing import running_worker
from tests.beat.test_scheduler import app_on, beating, ran
from tests.clock import FakeClock
from tests.patience import eventually
from tests.redis_server import RedisServer

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
ZONES = pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, ZoneInfo("Australia/Lord_Howe")], ids=str)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(clock: FakeClock) -> Iterator[Celeriac]:
    with app_on({"broker_url": f"memory://{new_id()}"}, clock=clock) as made:
        yield made


@contextmanager
def seen_ticks() -> Iterator[list[datetime]]:
    """Yield the ticks that are sent while the block lasts."""
    ticks: list[datetime] = []

    def note(sender: Any, *, tick: datetime, **_: Any) -> None:
        ticks.append(tick)

    signals.schedule_sent.connect(note)
    yield ticks
    signals.schedule_sent.disconnect(note)


async def pass_time(clock: FakeClock, until: datetime, *schedulers: Scheduler, minutes: int = 10) -> None:
    """Let time pass, and schedulers look into the store every so many minutes."""
    while clock.now() < until.timestamp():
        clock.advance(60 * minutes)
        for scheduler in schedulers:
            await scheduler.turn()


def set_to(clock: FakeClock, *moment: int, zone: ZoneInfo = BERLIN) -> None:
    clock.instant = datetime(*moment, tzinfo=zone).timestamp()  # type: ignore[misc]


def waiting(app: Celeriac) -> int:
    return sum(count.ready for count in app.broker.complete(app.broker.operations().queues()))


# --- Two beats (#251, #1495) -------------------------------------------------------------------------------


async def test_two_schedulers_that_look_at_the_same_instant_send_a_tick_once(app: Celeriac, clock: FakeClock) -> None:
    await app.schedules.aadd("x", every(60), app.tasks["shop.note"].s())
    one, two = app.scheduler("one"), app.scheduler("two")
    with seen_ticks() as ticks:
        for _ in range(100):
            clock.advance(60)
            await asyncio.gather(one.turn(), two.turn())
    assert len(ticks) == len(set(ticks)) == waiting(app) == 100


async def test_what_is_declared_twice_by_two_schedulers_is_one_schedule(clock: FakeClock) -> None:
    urls = {"broker_url": f"memory://{new_id()}"}
    schedule = {"x": {"task": "shop.note", "schedule": 60.0}}
    with app_on(urls, clock=clock, beat_schedule=schedule) as first, app_on(
        urls, clock=clock, beat_schedule=schedule
    ) as second, seen_ticks() as ticks:
        schedulers = first.scheduler("one"), second.scheduler("two")
        await asyncio.gather(*[scheduler.turn() for scheduler in schedulers])
        for _ in range(10):
            clock.advance(60)
            await asyncio.gather(*[scheduler.turn() for scheduler in schedulers])
        assert len(ticks) == len(set(ticks)) == waiting(first) == 10
        assert [info.version for info in first.schedules.list()] == [0]


# --- Summer time ---------------------------------------------------------------------------------------------


@ZONES
async def test_6438_a_schedule_goes_on_after_each_change_of_the_clocks(
    app: Celeriac, clock: FakeClock, zone: ZoneInfo
) -> None:
    set_to(clock, 2026, 1, 1, zone=zone)
    await app.schedules.aadd("noon", crontab(minute=0, hour=12, tz=zone), app.tasks["shop.note"].s())
    await app.schedules.aadd("often", every(minutes=30), app.tasks["shop.note"].s())
    with seen_ticks() as ticks:
        await pass_time(clock, datetime(2027, 1, 1, tzinfo=zone), app.scheduler(), minutes=30)
    assert ticks == sorted(ticks)
    infos = {info.name: info for info in app.schedules.list()}
    assert (infos["noon"].sent, infos["noon"].missed) == (365, 0)
    assert (infos["often"].sent, infos["often"].missed) == (365 * 48, 0)


@ZONES
async def test_9653_a_schedule_is_not_an_hour_late_after_a_change_of_the_clocks(
    app: Celeriac, clock: FakeClock, zone: ZoneInfo
) -> None:
    set_to(clock, 2026, 1, 1, zone=zone)
    await app.schedules.aadd("x", crontab(minute=30, hour=[8, 20], tz=zone), app.tasks["shop.note"].s())
    with seen_ticks() as ticks:
        await pass_time(clock, datetime(2027, 1, 1, tzinfo=zone), app.scheduler(), minutes=30)
    shown = [(tick.astimezone(zone).hour, tick.astimezone(zone).minute) for tick in ticks]
    assert shown == [(8, 30), (20, 30)] * 365


async def test_10107_at_the_end_of_summer_time_the_second_one_oclock_is_not_skipped(
    app: Celeriac, clock: FakeClock
) -> None:
    set_to(clock, 2026, 11, 1, zone=NEW_YORK)
    await app.schedules.aadd("hourly", crontab(minute=0, tz=NEW_YORK), app.tasks["shop.note"].s())
    with seen_ticks() as ticks:
        await pass_time(clock, datetime(2026, 11, 1, 5, tzinfo=NEW_YORK), app.scheduler())
    assert [tick.astimezone(NEW_YORK).hour for tick in ticks] == [1, 1, 2, 3, 4, 5]
    assert {later - earlier for earlier, later in pairwise(ticks)} == {timedelta(hours=1)}


@pytest.mark.parametrize(("dst", "times"), [("cron", 1), ("skip", 1), ("both", 2)])
async def test_a_fixed_time_that_comes_twice_is_sent_as_often_as_one_says(
    app: Celeriac, clock: FakeClock, dst: Any, times: int
) -> None:
    set_to(clock, 2026, 10, 24)
    half_past_two = crontab(minute=30, hour=2, tz=BERLIN, dst=dst)
    await app.schedules.aadd("x", half_past_two, app.tasks["shop.note"].s(), missed="all")
    with seen_ticks() as ticks:
        await pass_time(clock, datetime(2026, 10, 27, tzinfo=BERLIN), app.scheduler())
    days = [tick.astimezone(BERLIN).day for tick in ticks]
    assert [days.count(day) for day in (24, 25, 26)] == [1, times, 1]


@pytest.mark.parametrize(("dst", "shown"), [("cron", "03:00"), ("skip", None), ("both", "03:00")])
async def test_a_fixed_time_that_is_left_out_is_sent_after_the_change_unless_one_says_no(
    app: Celeriac, clock: FakeClock, dst: Any, shown: str | None
) -> None:
    set_to(clock, 2026, 3, 28)
    half_past_two = crontab(minute=30, hour=2, tz=BERLIN, dst=dst)
    await app.schedules.aadd("x", half_past_two, app.tasks["shop.note"].s())
    with seen_ticks() as ticks:
        await pass_time(clock, datetime(2026, 3, 31, tzinfo=BERLIN), app.scheduler())
    times = [f"{tick.astimezone(BERLIN):%d %H:%M}" for tick in ticks]
    assert times == ["28 02:30", *([f"29 {shown}"] if shown else []), "30 02:30"]


# --- Outages and restarts (#8845) ---------------------------------------------------------------------------


async def test_8845_a_scheduler_goes_on_after_its_broker_was_away(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    try:
        with app_on({"broker_url": server.url}) as app, running_worker(app):
            await app.schedules.aadd("x", every(0.2), app.tasks["shop.note"].s(), missed="all", max_missed=10_000)
            async with beating(app):
                for _ in range(2):
                    count = len(ran(app))
                    await eventually(lambda count=count: len(ran(app)) > count)
                    server.kill()
                    await asyncio.sleep(0.5)  # the time that is missed
                    server.start()
                count = len(ran(app))
                await eventually(lambda: len(ran(app)) > count + 5)
                await app.schedules.apause("x")
                info = await app.schedules.aget("x")
                await eventually(lambda: len(ran(app)) >= info.sent)
            assert (info.missed, info.skipped) == (0, 0)
    finally:
        server.end()


@pytest.mark.parametrize(
    ("missed", "sent"), [("latest", ["06:00"]), ("skip", []), ("all", ["03:00", "04:00", "06:00"])]
)
async def test_a_tick_that_came_while_no_scheduler_ran_at_night_is_sent_in_the_morning(
    app: Celeriac, clock: FakeClock, missed: Any, sent: list[str]
) -> None:
    set_to(clock, 2026, 6, 1, 20)
    night = crontab(minute=0, hour="3,4,6", tz=BERLIN)
    await app.schedules.aadd("x", night, app.tasks["shop.note"].s(), missed=missed)
    await pass_time(clock, datetime(2026, 6, 1, 22, tzinfo=BERLIN), app.scheduler("evening"))
    set_to(clock, 2026, 6, 2, 8)
    with seen_ticks() as ticks:
        await app.scheduler("morning").turn()
        await app.scheduler("another").turn()
    assert [f"{tick.astimezone(BERLIN):%H:%M}" for tick in ticks] == sent
    info = await app.schedules.aget("x")
    assert info.sent + info.missed == 3
    assert info.next_at == datetime(2026, 6, 3, 3, tzinfo=BERLIN).astimezone(UTC)


# --- Overlaps and edits --------------------------------------------------------------------------------------


async def test_a_task_that_takes_longer_than_its_interval_does_not_pile_up(app: Celeriac, clock: FakeClock) -> None:
    await app.schedules.aadd("slow", every(60), app.tasks["shop.note"].s(), overlap="skip")
    scheduler = app.scheduler()
    for _ in range(10):
        clock.advance(60)
        await scheduler.turn()
    assert waiting(app) == 1
    with running_worker(app):
        await eventually(lambda: ran(app))
        await eventually(lambda: app.AsyncResult(app.schedules.get("slow").last_id).ready())
        clock.advance(60)
        await scheduler.turn()
        await eventually(lambda: len(ran(app)) == 2)
    info = await app.schedules.aget("slow")
    assert (info.sent, info.skipped) == (2, 9)


async def test_an_edit_needs_no_restart(clock: FakeClock) -> None:
    urls = {"broker_url": f"memory://{new_id()}"}
    with app_on(urls, clock=clock) as app, app_on(urls, clock=clock) as editor:
        scheduler = app.scheduler()
        await scheduler.turn()
        note = editor.tasks["shop.note"]
        await editor.schedules.aadd("x", every(3600), note.s())
        await editor.schedules.achange("x", every(60))
        clock.advance(60)
        await scheduler.turn()
        assert waiting(app) == 1
        await editor.schedules.apause("x")
        clock.advance(600)
        await scheduler.turn()
        assert waiting(app) == 1
        await editor.schedules.aresume("x")
        clock.advance(60)
        await scheduler.turn()
        assert waiting(app) == 2
        await editor.schedules.aremove("x")
        clock.advance(600)
        await scheduler.turn()
        assert waiting(app) == 2
