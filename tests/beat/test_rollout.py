"""Schedulers of two releases of an app start in any order: the schedules of the newer one are in force."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest

from celeriac import Celeriac
from celeriac.beat import sync
from celeriac.beat.scheduler import Scheduler
from celeriac.drivers.memory.schedules import MemoryScheduleStore
from celeriac.model.message import new_id
from celeriac.ports.schedules import Change
from tests.beat.test_scheduler import app_on
from tests.clock import FakeClock
from tests.patience import PATIENCE

HOUR = 3600.0
OLD = {"kept": HOUR, "changed": HOUR, "old": HOUR}
NEW = {"kept": HOUR, "changed": 2 * HOUR, "new": HOUR}


class Rollout:
    """Schedulers of two releases of one app, on one store."""

    def __init__(self, stack: ExitStack) -> None:
        self.clock = FakeClock()
        self.old, self.new = (
            stack.enter_context(app_on({"broker_url": url}, clock=self.clock, beat_schedule={
                name: {"task": "shop.note", "schedule": seconds} for name, seconds in schedule.items()
            })) for url in [f"memory://{new_id()}"] for schedule in (OLD, NEW)
        )  # fmt: skip

    async def is_in_force(self, schedule: dict[str, float]) -> bool:
        found = {info.name: info.schedule for info in await self.new.schedules.alist()}
        return found == {name: f"every(hours={seconds / HOUR:g})" for name, seconds in schedule.items()}

    async def started(self, app: Celeriac) -> Scheduler:
        scheduler = app.scheduler()
        await scheduler.turn()
        return scheduler

    async def passes(self, seconds: float, *schedulers: Scheduler) -> None:
        """Let time pass, while some schedulers run."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            for scheduler in schedulers:
                await scheduler.turn()


@pytest.fixture
def rollout(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rollout]:
    monkeypatch.setattr(sync, "LOOKS", 0.0)
    with ExitStack() as stack:
        yield Rollout(stack)


async def test_an_older_release_that_starts_again_undoes_nothing(rollout: Rollout) -> None:
    await rollout.started(rollout.old)
    await rollout.started(rollout.new)
    assert await rollout.is_in_force(NEW)
    old = await rollout.started(rollout.old)
    await rollout.passes(30, old)
    assert await rollout.is_in_force(NEW)


async def test_an_older_release_that_goes_on_undoes_nothing(rollout: Rollout) -> None:
    old = await rollout.started(rollout.old)
    new = await rollout.started(rollout.new)
    await rollout.passes(200, old, new)
    assert await rollout.is_in_force(NEW)


async def test_what_both_releases_declare_keeps_its_cursor(rollout: Rollout) -> None:
    await rollout.started(rollout.old)
    (before,) = (await rollout.old.schedules.store.get(["kept"])).values()
    rollout.clock.advance(1)
    await rollout.started(rollout.new)
    assert (await rollout.old.schedules.store.get(["kept"]))["kept"] == before


async def test_a_deployment_is_rolled_back_a_minute_after_its_last_scheduler_was_killed(rollout: Rollout) -> None:
    old = await rollout.started(rollout.old)
    await rollout.started(rollout.new)
    await rollout.passes(59, old)
    assert await rollout.is_in_force(NEW)
    await rollout.passes(2, old)
    assert await rollout.is_in_force(OLD)


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
async def test_a_deployment_is_rolled_back_soon_after_its_last_scheduler_was_stopped(
    rollout: Rollout, how: str
) -> None:
    old, new = await rollout.started(rollout.old), rollout.new.scheduler()
    running = asyncio.ensure_future(new.run())
    await asyncio.wait_for(new.started.wait(), PATIENCE)
    if how == "stopped":
        new.stop()
    else:
        running.cancel()
    await asyncio.wait([running])
    await rollout.passes(4, old)
    assert await rollout.is_in_force(NEW)
    await rollout.passes(2, old)
    assert await rollout.is_in_force(OLD)


async def test_a_release_of_which_one_scheduler_stops_stays_in_force_by_the_others(rollout: Rollout) -> None:
    old = await rollout.started(rollout.old)
    stopped, new = await rollout.started(rollout.new), await rollout.started(rollout.new)
    await stopped.sync.leave(rollout.new.schedules.store, int(rollout.clock.now() * 1000))
    await rollout.passes(100, old, new)
    assert await rollout.is_in_force(NEW)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("last", ["old", "new"])
async def test_in_the_end_the_release_that_runs_is_in_force(rollout: Rollout, last: str, seed: int) -> None:
    drawn = random.Random(seed)
    running: list[Scheduler] = []
    for _ in range(60):
        what = drawn.random()
        if what < 0.25 and len(running) < 6:
            running.append(await rollout.started(drawn.choice([rollout.old, rollout.new])))
        elif what < 0.35 and running:
            running.remove(drawn.choice(running))
        elif running:
            await rollout.passes(drawn.choice([1, 1, 3, 20]), *drawn.sample(running, drawn.randint(1, len(running))))
    app = rollout.old if last == "old" else rollout.new
    left = [await rollout.started(app), *(one for one in running if one.app is app)]
    await rollout.passes(62, *left)
    assert await rollout.is_in_force(OLD if last == "old" else NEW)


async def test_what_an_older_release_does_while_a_newer_one_starts_is_put_right(
    rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, change = rollout.new.scheduler("new"), MemoryScheduleStore.change
    starts = [new]

    async def slow(self: MemoryScheduleStore, changes: Sequence[Change]) -> list[bool]:
        if starts and any(one.before.name == "changed" for one in changes):
            await starts.pop().turn()  # before the older release's change, which then fails, and is tried again
        return await change(self, changes)

    await rollout.started(rollout.old)
    await rollout.old.schedules.achange("changed", 3 * HOUR)
    monkeypatch.setattr(MemoryScheduleStore, "change", slow)
    await rollout.started(rollout.old)
    assert not await rollout.is_in_force(NEW)
    await new.turn()
    assert await rollout.is_in_force(NEW)


@pytest.mark.parametrize("made_by_hand", [True, False])
async def test_an_entry_that_changes_while_it_is_removed_is_looked_at_again(
    rollout: Rollout, monkeypatch: pytest.MonkeyPatch, made_by_hand: bool
) -> None:
    remove, schedules = MemoryScheduleStore.remove, rollout.new.schedules
    meanwhile = [True]

    async def late(self: MemoryScheduleStore, names: Mapping[str, int | None]) -> list[bool]:
        if meanwhile:
            meanwhile.pop()
            await schedules.apause("old")
            if made_by_hand:
                await schedules.aremove("old")
                await schedules.aadd("old", HOUR, rollout.new.tasks["shop.note"].s())
        return await remove(self, names)

    await rollout.started(rollout.old)
    monkeypatch.setattr(MemoryScheduleStore, "remove", late)
    await rollout.started(rollout.new)
    assert ("old" in {info.name for info in await schedules.alist()}) == made_by_hand


async def test_a_record_that_is_no_record_is_made_again(rollout: Rollout) -> None:
    store = rollout.old.schedules.store
    await rollout.started(rollout.old)
    (record,) = [entry for entry in await store.page("", 1) if entry.name.startswith("\x01")]
    (kept,) = (await store.get(["kept"])).values()
    await store.change([Change(before=record, after=kept.__class__(name=record.name, cursor=0))])
    await rollout.started(rollout.new)
    assert await rollout.is_in_force(NEW)
    assert [info.name for info in await rollout.new.schedules.alist()] == sorted(NEW)
