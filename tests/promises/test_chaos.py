"""Tasks through two workers, while children, workers, connections and servers are killed (and frozen) at random.

None may be lost; one may be run twice only where a kill explains that; and each outcome is recorded once. `make chaos`
runs it with 100,000 tasks (20,000 on RabbitMQ, and where another server keeps the outcomes; 3,000 on MongoDB) over two
minutes. A test that failed is made again with the seed that it printed, as far as the machine plays along:
`--chaos-seed`.

And tasks with an ETA, while their worker is restarted: `make chaos` has 10,000 over a minute, and minds when they run.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise

import psutil
import pytest

from celeriac.errors import BrokerUnavailable
from tests import patience
from tests.promises.grounds import (
    GROUNDS,
    STORES,
    PairGround,
    RabbitGround,
    RabbitRedisGround,
    RedisGround,
    SQLiteMongoGround,
)
from tests.promises.harness import Run, Stage, Worker, on

LEASE = 4.0  # seconds; longer than the server is ever away
LAG = 2.0  # seconds; an outcome is settled so soon after its run has ended; later on a slow machine, and …
MONGO_LAG = 10.0  # … in a store that is behind as soon as other work takes half of its machine
RETRIED = 2.5  # seconds; … or so soon after the broker's return, for workers try again every second at the most
PORTION = 50  # tasks sent at a time
RABBIT_SECONDS = 10.0  # for which a RabbitMQ is left alone; it takes some five to start
RAREST = 5.0  # times as long between two kills, on a machine that is so slow or slower
LONG = 300.0  # seconds; what is not done so long after the last task was sent, will not be done
WAVE = 5.0  # seconds from one wave of tasks to the next
LOST = "The lease is gone"  # as a worker's log says
EARLY = LATE = 1.0  # seconds around its time, in which a task with an ETA runs


class Producer:
    """Sends tasks over a time, in waves, from a thread. What a call has returned for is promised, and nothing else.

    So workers have much to do and nothing to do by turns.
    """

    def __init__(self, stage: Stage, tasks: int, seconds: float) -> None:
        self.promised: list[str] = []
        self.refused = 0
        self._victim = stage.victim
        self._tasks = tasks
        self._in_a_wave = tasks * WAVE / seconds
        self._thread = threading.Thread(target=self._send)
        self._failure: BaseException | None = None
        self._begun = time.monotonic()
        self._thread.start()

    def _send(self) -> None:
        try:
            while len(self.promised) < self._tasks:
                self._send_portion()
                due = self._begun + WAVE * (len(self.promised) // self._in_a_wave)
                time.sleep(max(0.0, due - time.monotonic()))
        except BaseException as error:
            self._failure = error

    def _send_portion(self) -> None:
        """Send some of both lanes together, some one by one."""
        for task in (self._victim.brief, self._victim.abrief):
            numbers = range(len(self.promised), min(self._tasks, len(self.promised) + PORTION))
            half = len(numbers) // 2
            calls: list[Callable[[], list[str]]] = [
                lambda numbers=numbers[:half], task=task: [r.id for r in task.delay_many([(n,) for n in numbers])]
            ]
            calls += [lambda number=number, task=task: [task.delay(number).id] for number in numbers[half:]]
            for call in calls:
                try:
                    self.promised += call()
                except BrokerUnavailable:
                    self.refused += 1
                    time.sleep(0.02)

    def is_done(self) -> bool:
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()


class Killer:
    """Kills, and knows afterwards whom."""

    def __init__(self, stage: Stage, seed: int | None = None) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.children: dict[int, float] = {}  # when, by process
        self.workers: dict[str, float] = {}  # when, by worker
        self.counts: Counter[str] = Counter()
        self.slowness = 1.0  # the worst that was measured; kills are so much rarer. See `patience.exact`
        self._deck: list[Callable[[], bool]] = []
        self._started = 0.0  # the server
        self.living = [self.start(), self.start()]
        for worker in self.living:
            worker.wait_ready()
        self.ways: dict[Callable[[], bool], int] = {self.kill_child: 4, self.kill_worker: 2}
        if isinstance(stage.ground, RedisGround):
            self.ways |= {
                self.kill_connections: 3, self.kill_one_connection: 3, self.kill_server: 2, self.freeze_server: 1,
            }  # fmt: skip
        if isinstance(stage.ground, RabbitGround):
            self.ways |= {self.kill_server: 1}  # it takes seconds to start
        if isinstance(stage.ground, PairGround):
            self.ways |= {self.kill_store: 1, self.freeze_store: 1}

    def start(self) -> Worker:
        return self.stage.worker("-c", "2", ready=False, worker_lease_seconds=LEASE, task_max_deliveries=20)

    def kill(self) -> None:
        """Kill something; in the long run each in its proportion."""
        if not self._deck:
            self._deck = [way for way, times in self.ways.items() for _ in range(times)]
            self.random.shuffle(self._deck)
        if len(self._deck) % 5 == 0 and not patience.exact:
            self.slowness = max(self.slowness, patience.slowness(1))
        way = self._deck.pop()
        if way():
            self.counts[way.__name__] += 1

    @property
    def has_tried_all(self) -> bool:
        """Whether each way to kill was used."""
        return self.counts.keys() == {way.__name__ for way in self.ways}

    def kill_child(self) -> bool:
        worker = self.random.choice(self.living)
        try:
            child = self.random.choice(worker.children())
            child.send_signal(signal.SIGKILL)
        except (psutil.NoSuchProcess, ValueError, IndexError):
            return False  # it is starting
        self.children[child.pid] = time.time()
        return True

    def kill_worker(self) -> bool:
        worker = self.living.pop(0)
        worker.kill()
        self.workers[worker.name] = time.time()
        self.living.append(self.start())
        return True

    def kill_connections(self) -> bool:
        """Cut off everybody."""
        for kind in ("normal", "pubsub"):
            self._redis.server.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        self._note_outage()
        return True

    def kill_one_connection(self) -> bool:
        lines = self._redis.server.ask("CLIENT", "LIST").decode().splitlines()
        id = self.random.choice(lines).split(" ", 1)[0].removeprefix("id=")
        self._note_outage()
        return bool(self._redis.server.ask("CLIENT", "KILL", "ID", id, "SKIPME", "yes"))

    def _note_outage(self) -> None:
        now = time.time()  # who is cut off tries again as if the server had been away
        self._redis.outages.append((now, now))

    def kill_server(self) -> bool:
        left_alone = RABBIT_SECONDS * min(self.slowness, RAREST)
        if isinstance(self.stage.ground, RabbitGround) and time.time() - self._started < left_alone:
            return False  # it would not be up for long enough to do anything
        with self.stage.ground.away("down"):
            time.sleep(self.random.choice([0.0, 0.1, 1.0]))
        self._started = time.time()
        return True

    def freeze_server(self) -> bool:
        with self._redis.away("frozen"):
            time.sleep(self.random.choice([0.1, 0.5, 1.5]))
        return True

    def kill_store(self) -> bool:
        """Kill what keeps the outcomes, and is not the broker."""
        with self.stage.store_away("down"):
            time.sleep(self.random.choice([0.0, 0.1, 1.0]))
        return True

    def freeze_store(self) -> bool:
        with self.stage.store_away("frozen"):
            time.sleep(self.random.choice([0.1, 0.5, 1.5]))
        return True

    @property
    def _redis(self) -> RedisGround:
        ground = self.stage.ground
        found = ground.store if isinstance(ground, RabbitRedisGround) else ground
        assert isinstance(found, RedisGround)
        return found

    def explains(self, run: Run, ended: float | None, copy: Run) -> bool:
        """Say whether a kill took the run, or its outcome before that was settled; or stored its message twice."""
        killed = [at for at in (self.children.get(run.pid), self.workers.get(run.worker)) if at is not None]
        if isinstance(self.stage.ground, RabbitGround):  # whose leases end with their connection
            killed += [begun for begun, _ in self.stage.ground.outages]
        killed += self.leases_lost.get(run.worker, ())
        settled = None if ended is None else self._settled(ended)
        if any(at >= run.at - 0.1 and (settled is None or at <= settled) for at in killed):
            return True
        return (settled is None or copy.at <= settled) and self._may_be_a_copy(run)

    def _may_be_a_copy(self, run: Run) -> bool:
        """Say whether a run's message may have been stored twice, so that both copies ran at once.

        A RabbitMQ that is cut off before it has confirmed a message has stored it, or not; so it is sent again. Both
        wait in the queue then, for however long it is. And what goes back is sent anew before it is acknowledged; a
        worker that is killed in between has left both.
        """
        if not isinstance(self.stage.ground, RabbitGround):
            return False
        made = int(run.id[:13].replace("-", ""), 16) / 1000  # an id begins with its milliseconds
        retried, settled = RETRIED * self.slowness, (RETRIED + LAG) * self.slowness
        cut_off = any(begun <= run.at and made <= returned + retried for begun, returned in self.stage.ground.outages)
        return cut_off or any(at <= run.at <= at + settled for at in self.workers.values())

    @cached_property
    def leases_lost(self) -> dict[str, list[float]]:
        """When leases were lost, by worker: with the server, or for a heartbeat too late on a busy machine."""
        lines = {worker.name: worker.text().splitlines() for worker in self.stage.workers}
        return {
            name: [datetime.fromisoformat(line[:23].replace(",", ".")).timestamp() for line in its if LOST in line]
            for name, its in lines.items()
        }

    def _settled(self, ended: float) -> float:
        """Return when an outcome is settled at the latest: later, if the broker or the outcomes were away then."""
        ground = self.stage.ground
        settled = ended + (MONGO_LAG if isinstance(ground, SQLiteMongoGround) else LAG) * self.slowness
        elsewhere = ground.store.outages if isinstance(ground, PairGround) else []
        for begun, returned in sorted(ground.outages + elsewhere):
            if begun <= settled and returned >= ended:
                settled = max(settled, returned + RETRIED * self.slowness)
        return settled


@pytest.fixture
def chaos(request: pytest.FixtureRequest, stage: Stage) -> tuple[int, float, int]:
    """Tasks, seconds, and the seed of what is killed when."""
    seed = request.config.getoption("--chaos-seed") or random.SystemRandom().randrange(1 << 32)
    # A RabbitMQ that is killed takes some seconds each time to be there again; so do some that keep outcomes.
    slow = isinstance(stage.ground, RabbitGround | PairGround)
    if isinstance(stage.ground, SQLiteMongoGround):  # its server stores some 200 outcomes a second
        return 3_000, 120.0, seed
    if request.config.getoption("--chaos"):
        return 20_000 if slow else 100_000, 120.0, seed
    return 3_000 if slow else 10_000, 12.0, seed


@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [*GROUNDS, *(on(name, at_length=True) for name in STORES)], indirect=True)
def test_whatever_is_killed_every_task_is_run_and_none_twice_without_a_kill_that_explains_it(
    stage: Stage, chaos: tuple[int, float, int]
) -> None:
    tasks, seconds, seed = chaos
    print(f"\nchaos: seed {seed}")
    stage.record()
    killer = Killer(stage, seed)
    begun = time.monotonic()
    producer = Producer(stage, tasks, seconds)
    due = begun + 1
    looked = begun
    while True:
        time.sleep(0.01)
        now = time.monotonic()
        if now >= due:
            killer.kill()
            due = now + killer.random.uniform(0.3, 1.2) * min(killer.slowness, RAREST)
        if producer.is_done() and now - looked > 0.25:  # not to hinder the workers by looking
            looked = now
            counts = stage.counts()
            if not counts.ready + counts.active + counts.scheduled and killer.has_tried_all:
                break
        bound = 2 * seconds + LONG * killer.slowness
        assert now - begun < bound, f"{stage.counts()} are left:\n{killer.living[0].text()[-5000:]}"
    took = time.monotonic() - begun

    runs: dict[str, list[Run]] = defaultdict(list)
    for run in stage.journal():
        runs[run.id].append(run)
    ends = {(run.id, run.pid): run.at for run in stage.journal("end")}
    again = [pair for ran in runs.values() for pair in pairwise(sorted(ran, key=lambda run: run.at))]
    unexplained = [run for run, copy in again if not killer.explains(run, ends.get((run.id, run.pid)), copy)]
    interrupted = sum((run.id, run.pid) not in ends for run, _ in again)
    promised = producer.promised
    unpromised = runs.keys() - set(promised)
    lost = set(promised) - runs.keys()
    outcomes = {
        id: outcome
        for start in range(0, tasks, 1000)
        for id, outcome in stage.app.backend.fetch(promised[start : start + 1000]).items()
    }
    states = Counter(outcome.state for outcome in outcomes.values())
    recorded = stage.recorded()
    twice = [id for id, times in recorded.items() if times > 1]
    print(f"chaos: {tasks} tasks in {took:.1f} s")
    print(f"  killed: {dict(killer.counts)}")
    print(f"  calls refused while the broker was away {producer.refused}, of these run all the same {len(unpromised)}")
    print(f"  tasks run {len(runs)}, runs {sum(map(len, runs.values()))}, lost {len(lost)}")
    print(f"  leases lost {sum(map(len, killer.leases_lost.values()))}")
    print(f"  run again {len(again)}: cut off {interrupted}, ended and not yet settled {len(again) - interrupted}; "
          f"unexplained {len(unexplained)}")  # fmt: skip
    print(f"  outcomes {dict(states)}, recorded twice {len(twice)}")

    assert not lost
    assert [(run, ends.get((run.id, run.pid))) for run in unexplained] == []
    assert twice == []
    assert states == {"SUCCESS": tasks}
    assert recorded.keys() == runs.keys()
    for id in random.sample(promised, 200):
        assert stage.app.AsyncResult(id).get(timeout=patience.PATIENCE) in {run.pid for run in runs[id]}
    stage.wait(stage.is_empty, "an empty broker")


@pytest.mark.timeout(600)
def test_tasks_run_at_their_time_though_the_worker_is_restarted_half_way(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    full = request.config.getoption("--chaos")
    count, seconds = (10_000, 60.0) if full else (1_000, 8.0)
    stage.app.conf.broker_publish_timeout = patience.PATIENCE
    worker = stage.worker()
    begun = time.time() + 3.0 + count / 500  # they are all sent by then
    due = {}
    for start in range(0, count, 5):
        eta = datetime.fromtimestamp(begun + seconds * start / count, UTC)
        for result in stage.victim.quick.delay_many([(number,) for number in range(5)], eta=eta):
            due[result.id] = eta.timestamp()
    sent = time.time()
    time.sleep(max(0.0, begun + seconds / 2 - time.time()))
    stopping = time.time()
    assert worker.stop() == 0
    stage.worker()
    away = time.time() - stopping
    time.sleep(max(0.0, begun + seconds - time.time()))  # not to hinder the worker by looking
    stage.wait(lambda: due.keys() <= {run.id for run in stage.journal()}, "all tasks")
    stage.wait(stage.is_empty, "an empty broker")
    late = sorted(run.at - due[run.id] for run in stage.journal() if run.id in due)
    median, p99 = late[count // 2], late[int(count * 0.99)]
    print(f"\neta: {count} tasks over {seconds:g} s, the worker restarted half-way, in {away:.2f} s: {len(late)} runs")
    print(f"eta: late by {median:.3f} s (median), {p99:.3f} s (p99); from {late[0]:.3f} to {late[-1]:.3f} s")
    assert len(late) == count
    assert late[0] > -EARLY
    if full:
        assert sent < begun, "the machine is too slow to send them in time"
        assert p99 < LATE
