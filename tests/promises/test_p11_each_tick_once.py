"""P11: each tick of a schedule is sent exactly once, with any number of schedulers, whatever is killed or frozen.

Schedulers run in processes of their own. They are killed, frozen and started at random, some for longer than a claim
stands; the clocks of some are set forward and back; the broker goes away; schedules are edited. All schedules fall due
each second, and what was missed is sent. In the end the ticks are counted: those that the schedules say, those that the
entries have counted, and those that the workers have run.

On RabbitMQ, whose schedules are kept by another server, a tick may be sent twice, with the same id. It is run twice
only if both messages are in the hands of workers before the outcome of one is recorded, or a worker has lost its
connection with the task in its hands. `make chaos` has 200 schedules and five schedulers for a minute.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from celeriac import chain
from celeriac.beat.definition import LAST_RECORD, definition_of
from celeriac.errors import BackendError, BrokerError
from celeriac.ports.schedules import Entry
from celeriac.schedules.intervals import every
from tests import patience
from tests.environment import without_settings
from tests.forked import SCRIPT, Forked
from tests.patience import wait_for
from tests.promises.beater import declared
from tests.promises.grounds import GROUNDS, PairGround, RabbitGround
from tests.promises.harness import Run, Stage, imports_of, on
from tests.promises.stores import ServerStore

CLAIM_SECONDS = 2.0
LAG = 2.0  # seconds from the end of a run until its outcome is recorded; more on a slow machine
NOTICED = 1.0  # seconds after it was cut off, in which a worker begins no more tasks
LONG_AWAY = 30.0  # seconds
LONG = 300.0  # seconds; what is not run so long after the last tick was sent, will not be run


PLACES = [
    *GROUNDS, on("rabbitmq+postgresql"), on("rabbitmq+mongodb", at_length=True), on("redis+postgresql", at_length=True),
]  # fmt: skip


class Size(NamedTuple):
    """How much of it there is."""

    schedules: int
    schedulers: int
    seconds: float
    long_away: bool


class Beater:
    """A scheduler's process."""

    def __init__(self, stage: Stage, number: int, count: int) -> None:
        self.name = f"beater{number}"
        self.clock = stage.folder / f"{self.name}.clock"
        if number % 2:
            self.set_clock(0.0)
        self.log = stage.folder / f"{self.name}.log"
        self.frozen_until = 0.0
        self.log.touch()
        environment = without_settings() | stage.ground.environment
        self.process = Forked(
            SCRIPT, "beater.py", self.name, str(CLAIM_SECONDS), str(count), cwd=stage.folder, environment=environment,
            log=self.log, imports=["celeriac.beat.scheduler", *imports_of("beat", environment)],
        )  # fmt: skip

    def set_clock(self, wrong: float) -> None:
        new = self.clock.with_suffix(".new")
        new.write_text(str(wrong))
        os.replace(new, self.clock)

    def end(self) -> None:
        assert self.process.poll() is None, self.log.read_text()
        self.process.kill()
        self.process.wait()


class Trouble:
    """Kills, freezes and misleads schedulers, and knows afterwards how often."""

    def __init__(self, stage: Stage, seed: int, size: Size) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.cut_off: list[float] = []  # when workers lost their connections, since the epoch
        self.away = 0.0  # seconds for which the broker was, all in all
        self._declared = size.schedules // 2
        self._started = 0
        self._ways = {self.kill: 4, self.freeze: 4, self.step_clock: 3, self.edit: 2, self.take_broker_away: 2}
        self._deck: list[Callable[[], bool]] = []
        if isinstance(stage.ground, PairGround):
            self._ways[self.take_store_away] = 2
        self._long_away = size.long_away
        shutil.copy(Path(__file__).with_name("beater.py"), stage.folder)
        self.beaters = [self._start() for _ in range(size.schedulers)]

    def _start(self) -> Beater:
        self._started += 1
        return Beater(self.stage, self._started, self._declared)

    def make(self) -> None:
        """Make some trouble; in the long run each kind in its proportion."""
        if not self._deck:
            self._deck = [way for way, times in self._ways.items() for _ in range(times)]
            self.random.shuffle(self._deck)
        way = self._deck.pop()
        self.counts[way.__name__] += way()
        self.thaw()

    def thaw(self, until: float | None = None) -> None:
        """Let those go on whose time has come."""
        for beater in self.beaters:
            if beater.frozen_until and beater.frozen_until <= (until or time.monotonic()):
                beater.frozen_until = 0.0
                beater.process.send_signal(signal.SIGCONT)

    def kill(self) -> bool:
        self.beaters.pop(self.random.randrange(len(self.beaters))).end()
        self.beaters.append(self._start())
        return True

    def freeze(self) -> bool:
        beater = self.random.choice(self.beaters)
        beater.process.send_signal(signal.SIGSTOP)
        beater.frozen_until = time.monotonic() + self.random.choice([0.2, 1.0, CLAIM_SECONDS + 5.0])
        return True

    def step_clock(self) -> bool:
        wrong = [beater for beater in self.beaters if beater.clock.exists()]
        if not wrong:
            return False
        # A claim by a clock that is far ahead would stand for as long.
        ahead = [1.0, 1.5] if isinstance(self.stage.ground, RabbitGround) else [1.0, 40.0]
        self.random.choice(wrong).set_clock(self.random.choice([-40.0, -1.5, 0.0, *ahead]))
        return True

    def edit(self) -> bool:
        number = self.random.choice([number for number in range(self._declared) if not is_chain(number)])
        try:
            self.stage.app.schedules.change(f"added{number}", what=self.stage.victim.brief.si(self.random.random()))
        except (BrokerError, BackendError):
            return False  # a frozen scheduler has locked the file
        return True

    def take_broker_away(self) -> bool:
        how = self.random.choice(self.stage.ground.absences)
        if isinstance(self.stage.ground, RabbitGround) and self.counts["take_broker_away"] == 0:
            how = "down"  # once: it takes seconds to start
        elif isinstance(self.stage.ground, RabbitGround):
            how = "frozen"
        seconds = LONG_AWAY if self._long_away else self.random.choice([0.2, 0.5, 1.5])
        self._long_away = False
        begun = time.time()
        with self.stage.ground.away(how):
            time.sleep(seconds)
        if how == "down":
            self.cut_off.append(begun)
        self.away += time.time() - begun
        return True

    def take_store_away(self) -> bool:
        assert isinstance(self.stage.ground, PairGround)
        store = self.stage.ground.store
        begun = time.time()
        with store.away(self.random.choice(store.absences)):
            time.sleep(self.random.choice([0.2, 0.5, 1.5]))
        self.away += time.time() - begun
        return True

    def end(self) -> None:
        """Kill all schedulers."""
        self.thaw(until=float("inf"))
        for beater in self.beaters:
            beater.end()
        self.beaters.clear()

    def explains(self, run: Run, ended: float | None, copy: Run, stored_at: Mapping[str, float],
                 slowness: float) -> bool:  # fmt: skip
        """Say whether a tick may have been run twice: nothing was recorded yet, or RabbitMQ was cut off."""
        if not isinstance(self.stage.ground, RabbitGround):
            return False
        recorded = (ended or run.at) + LAG * slowness
        recorded = max(recorded, stored_at.get(run.id, 0.0) + LAG * slowness)  # later if the store was away or is slow
        cut_off = any(run.at - NOTICED * slowness <= at <= recorded for at in self.cut_off)
        return cut_off or copy.at <= recorded


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Size:
    at_length = request.config.getoption("--chaos")
    if at_length and "mongodb" in request.node.name:  # a server in Python, for which ticks of 200 a second are too many
        return Size(schedules=30, schedulers=5, seconds=30.0, long_away=False)
    if at_length:
        return Size(schedules=200, schedulers=5, seconds=60.0, long_away=True)
    return Size(schedules=20, schedulers=3, seconds=10.0, long_away=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", PLACES, indirect=True)
def test_each_tick_is_sent_once_whatever_is_killed_frozen_cut_off_or_set_back(
    stage: Stage, size: Size, request: pytest.FixtureRequest
) -> None:
    seed = request.config.getoption("--chaos-seed") or random.SystemRandom().randrange(1 << 32)
    print(f"\nseed {seed}")
    usual = stage.app.conf.broker_publish_timeout
    stage.app.conf.broker_publish_timeout = 10.0  # of `Trouble.edit`, if a frozen scheduler has locked the file
    assert stage.app.backend is not None
    stage.app.conf.broker_publish_timeout = usual
    begun = entries(stage, size)
    assert not any(entry.sent for entry in begun.values())
    stage.worker("-c", "2")
    trouble = Trouble(stage, seed, size)
    try:
        stage.wait(lambda: stage.journal(), "the first tick")
        until = time.monotonic() + size.seconds
        while time.monotonic() < until + trouble.away:
            time.sleep(trouble.random.uniform(0.1, 0.8))
            trouble.make()
    finally:
        trouble.end()
    ended = settled(stage, begun)

    expected: dict[str, tuple[str, int]] = {}
    for name, entry in ended.items():
        ticks = ticks_between(entry, begun[name].cursor)
        definition = definition_of(entry)
        for tick in ticks:
            filled = definition.what.fill(entry.salt, tick, 0.0, 0.0, stage.app.backend.codec)
            expected |= dict.fromkeys((*(message.id for message in filled.messages), *filled.ends), (name, tick))
        assert (entry.sent, entry.missed, entry.skipped) == (len(ticks), 0, 0), entry
        assert (entry.last_at, entry.last_id) == (ticks[-1], definition.what.ends_at(entry.salt, ticks[-1])[0])
    deadline = time.monotonic() + LONG
    while not stage.is_empty():
        assert time.monotonic() < deadline, f"{stage.counts()} are left:\n{stage.workers[0].text()[-5000:]}"
        time.sleep(0.25)  # not to hinder the workers by looking
    stage.wait(lambda: expected.keys() <= {run.id for run in stage.journal("end")}, "all ticks")

    runs: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(stage.journal(), key=lambda run: run.at):
        runs[run.id].append(run)
    ends = {(run.id, run.pid): run.at for run in stage.journal("end")}
    again = [pair for ran in runs.values() for pair in pairwise(ran)]
    slowness = 1.0 if patience.exact else patience.slowness()
    store = stage.ground.store if isinstance(stage.ground, PairGround) else None
    stored_at = store.stored_at() if isinstance(store, ServerStore) else {}
    unexplained = [
        (expected.get(run.id), run, copy) for run, copy in again
        if not trouble.explains(run, ends.get((run.id, run.pid)), copy, stored_at, slowness)
    ]  # fmt: skip
    sent = sum(entry.sent for entry in ended.values())
    logs = "".join(log.read_text() for log in stage.folder.glob("beater*.log"))
    claims = sum(map(int, re.findall(r"Takes over (\d+) claims", logs)))
    print(f"{len(ended)} schedules, {size.schedulers} schedulers at a time, {sent} ticks, each once; trouble: "
          f"{dict(trouble.counts)}; {claims} claims taken over, {len(again)} tasks run again, the last "
          f"{max([copy.at - run.at for run, copy in again], default=0.0):.2f} s after the first run")  # fmt: skip
    assert runs.keys() == expected.keys()
    assert unexplained == []


def entries(stage: Stage, size: Size) -> dict[str, Entry]:
    """Declare half of the schedules, add the others, and return them all. Nothing is sent yet."""
    stage.app.conf.beat_schedule = declared(size.schedules // 2)
    asyncio.run(declare(stage))
    plain, coroutine = stage.victim.brief, stage.victim.abrief
    for number in range(size.schedules // 2):
        what = chain(plain.si(number), coroutine.si(number)) if is_chain(number) else coroutine.si(number)
        stage.app.schedules.add(f"added{number}", every(1), what, missed="all", max_missed=10_000)
    return asyncio.run(stored(stage))


def is_chain(number: int) -> bool:
    """Say whether an added schedule sends a chain. These are not edited: the ids of its tasks would be others."""
    return number % 5 == 0


async def declare(stage: Stage) -> None:
    """Bring what the app declares into the store, as a scheduler does: its whole turn would also send what is due."""
    store = stage.app.schedules.store
    await stage.app.scheduler("first").sync.turn(store, (await store.due(1)).now)


async def stored(stage: Stage) -> dict[str, Entry]:
    return {entry.name: entry for entry in await stage.app.schedules.store.page(LAST_RECORD, 1_000)}


def settled(stage: Stage, begun: dict[str, Entry]) -> dict[str, Entry]:
    """Let one more scheduler finish what the others have claimed, and send what they have missed."""
    now = int(time.time() * 1000)

    async def finish() -> dict[str, Entry]:
        scheduler = stage.app.scheduler("last")
        await scheduler.turn()
        found = await stored(stage)
        done = all(entry.claimed_at is None and entry.cursor >= now - 1000 for entry in found.values())
        return found if done else {}

    found: dict[str, Entry] = wait_for(lambda: asyncio.run(finish()), "the end of all claims")
    assert found.keys() == begun.keys()
    return found


def ticks_between(entry: Entry, cursor: int) -> list[int]:
    """Return the ticks after a cursor, until the entry's."""
    when, ticks = definition_of(entry).when, []
    tick = when.next(cursor)
    while tick is not None and tick <= entry.cursor:
        ticks.append(tick)
        tick = when.next(tick)
    return ticks
