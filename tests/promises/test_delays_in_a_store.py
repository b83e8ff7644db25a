"""P1, P2 and P6 for what waits in the result backend's store: countdowns, retries, links; with RabbitMQ as the broker.

Whatever is killed, nothing is lost, and each outcome is recorded once; nothing runs twice where nothing is killed.
`make chaos` has more tasks and faults, and other stores.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celeriac.errors import BackendError, BrokerUnavailable
from tests import patience
from tests.promises.harness import SHORT_LEASE, Stage, on

on_stores = pytest.mark.parametrize(
    "stage", [on("rabbitmq+redis, delays"), on("rabbitmq+postgresql, delays", at_length=True),
              on("rabbitmq+mongodb, delays", at_length=True)], indirect=True)  # fmt: skip
LONGEST = 2.0  # seconds that a task of the load waits


def is_slow(stage: Stage) -> bool:
    """Return whether the store is the tests' MongoDB, which does a hundred operations in a second."""
    return stage.app.backend_url.startswith("mongodb")


class Load:
    """Sends tasks that wait, all the time: by countdown and ETA, with retries, with a link that waits, too."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.results: list[Any] = []
        self.links: list[str] = []
        self.refused = 0
        self._pause = 0.2 if is_slow(stage) else 0.02
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failure: BaseException | None = None

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            for number in itertools.count():
                if self._stopped.wait(self._pause):
                    return
                try:
                    self._send(number)
                except (BrokerUnavailable, BackendError):  # P8: told at the call; the message may wait all the same
                    self.refused += 1
        except BaseException as error:
            self._failure = error

    def _send(self, number: int) -> None:
        stage, delay = self.stage, (number % 21) / 20 * LONGEST
        lane = ("plain", "coroutine")[number % 2]
        if number % 3 == 0:
            self.results.append(stage.send(lane, "returns", number, countdown=delay))
        elif number % 3 == 1:
            self.results.append(stage.send(lane, "retries_at_once", 3, countdown=delay))
        else:
            link = stage.app.tasks["victim.quick"].si(number).set(countdown=delay)
            eta = datetime.now(UTC) + timedelta(seconds=delay)
            self.results.append(stage.send(lane, "returns", number, eta=eta, link=link))
            self.links.append(self.results[-1].id)


@on_stores
@pytest.mark.timeout(900)
def test_nothing_that_waits_is_lost_or_recorded_twice_whatever_is_killed(stage: Stage) -> None:
    rounds = 4 if patience.exact else 1
    workers = [stage.worker(worker_lease_seconds=SHORT_LEASE, task_max_deliveries=20) for _ in range(2)]
    stage.record()
    stage.app.conf.broker_publish_timeout = 5.0
    with Load(stage) as load:
        for _ in range(rounds):
            pass_some(stage, load)
            workers.pop(0).signal_all(signal.SIGKILL)
            workers.append(stage.worker(worker_lease_seconds=SHORT_LEASE, task_max_deliveries=20))
            pass_some(stage, load)
            with stage.store_away("down"):
                workers.pop(0).signal_all(signal.SIGKILL)
            workers.append(stage.worker(worker_lease_seconds=SHORT_LEASE, task_max_deliveries=20))
            pass_some(stage, load)
            if not patience.exact:
                break
            with stage.away("down"):
                pass
            pass_some(stage, load)
            workers[0].signal(signal.SIGSTOP)
            frozen = time.monotonic()
            stage.wait(lambda frozen=frozen: time.monotonic() > frozen + 1.5 * SHORT_LEASE, "its lease to run out")
            workers[0].signal(signal.SIGCONT)
    stage.wait(lambda: all(result.ready() for result in load.results), "the end of all tasks")
    assert {repr(result.result) for result in load.results if not result.successful()} == set()
    stage.wait(stage.is_empty, "an empty broker")
    recorded = stage.recorded()
    assert {recorded[result.id] for result in load.results} == {1}
    assert set(recorded.values()) == {1}
    linked = Counter(run.id for run in stage.journal()).keys() - {result.id for result in load.results}
    assert len(linked) >= len(load.links)
    again = Counter((run.id, run.attempt) for run in stage.journal())
    print(f"\ndelays: {len(load.results)} tasks and {len(load.links)} links, {load.refused} calls refused, "
          f"{sum(times > 1 for times in again.values())} attempts run again")  # fmt: skip


def pass_some(stage: Stage, load: Load) -> None:
    """Wait until some more tasks have been sent, and some have ended."""
    number = 15 if is_slow(stage) else 50
    sent, ran = len(load.results) + number, len(stage.journal()) + number // 2
    stage.wait(lambda: len(load.results) > sent and len(stage.journal()) > ran, "some tasks")


@on_stores
@pytest.mark.timeout(600)
def test_where_nothing_is_killed_each_runs_once_and_not_before_its_time(stage: Stage) -> None:
    """Three workers move them; many are due at the same instant."""
    many = 5000 if patience.exact and not is_slow(stage) else 600
    for _ in range(3):
        stage.worker()
    begun = time.time()
    due: dict[str, float] = {}
    for delay in (1.0, 1.0, 1.5, 2.0, 3.0):
        sent = time.time()
        for result in stage.victim.quick.delay_many([(number,) for number in range(many // 5)], countdown=delay):
            due[result.id] = sent + delay
    retried = [stage.send("plain", "retries_at_once", 3, countdown=0.5) for _ in range(20)]
    stage.wait(lambda: due.keys() <= {run.id for run in stage.journal()}, "all tasks")
    stage.wait(lambda: all(result.ready() for result in retried), "the end of those that are retried")
    stage.wait(stage.is_empty, "an empty broker")
    runs = stage.journal()
    assert set(Counter((run.id, run.attempt) for run in runs).values()) == {1}
    assert {result.get(timeout=patience.PATIENCE) for result in retried} == {3}
    late = sorted(run.at - due[run.id] for run in runs if run.id in due)
    print(f"\ndelays: {many} tasks in {time.time() - begun:.1f} s, late by {late[len(late) // 2]:.3f} s (median), "
          f"{late[int(len(late) * 0.99)]:.3f} s (p99), {late[-1]:.3f} s at most")  # fmt: skip
    assert late[0] > -0.05
