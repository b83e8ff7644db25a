"""Celeriac's scheduler; the module that creates the contender chooses the server."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import datetime
from typing import Any

from benchmarks.peers.beat_peer import BeatPeer
from celeriac import Celeriac, signals
from celeriac.schedules.intervals import every

__all__ = ["CeleriacBeat"]

BATCH = 500  # schedules that are added in one step


class CeleriacBeat(BeatPeer):
    """A scheduler with default settings."""

    title = "Celeriac"
    module = "celeriac"
    packages = ("celeriac", "uvloop")

    def __init__(self, url: str, settings: str) -> None:
        self.app = Celeriac("benchmark", broker_url=url)
        self.noop = self.app.task(name="noop")(_noop)
        self.settings = settings

    def schedule(self, count: int, period: int) -> None:
        schedules, what = self.app.schedules, self.noop.s(1)

        async def create() -> None:
            for start in range(0, count, BATCH):
                await schedules.store.create([
                    schedules.entry(f"x{number}", schedules.definition(every(period, phase=number % period), what,
                                                                       missed="all"))
                    for number in range(start, min(count, start + BATCH))
                ])  # fmt: skip

        asyncio.run(create())

    def beat(self, seconds: int, count: int, period: int) -> dict[str, Any]:
        late: list[float] = []
        begun = time.time()
        caught_up = begun  # when the last tick was sent that had fallen due before the start

        def note(sender: Any, *, tick: datetime, **_: Any) -> None:
            nonlocal caught_up
            now, at = time.time(), tick.timestamp()
            if at <= begun:
                caught_up = now
            elif at > caught_up:
                late.append(now - at)

        signals.schedule_sent.connect(note)

        async def run() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.app.beat("one"), seconds)

        asyncio.run(run())
        return {"sent": len(late), "late": late, "seconds": begun + seconds - caught_up}

    def declare(self, count: int) -> float:
        for number in range(count):
            self.app.add_periodic_task(every(3600, phase=number % 3600), self.noop.s(number), name=f"x{number}")

        async def start() -> float:
            begun = time.perf_counter()
            await self.app.scheduler("one").turn()
            return time.perf_counter() - begun

        return asyncio.run(start())


def _noop(number: int) -> int:
    return number
