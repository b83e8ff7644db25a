"""P7, P1 and P2 where another server than the broker keeps the outcomes, and that server is killed, restarted, frozen.

A worker has a stream of tasks meanwhile. What it cannot store it keeps, and stores when the server is back.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from typing import Any

import pytest

from tests import patience
from tests.patience import PATIENCE, in_time
from tests.promises.grounds import STORES
from tests.promises.harness import SHORT_LEASE, Stage, on

AWAY = 1.5  # seconds, from when the worker has noticed
WITHIN = 5.0  # seconds
OUTAGES = ("down", "frozen", "down") if patience.exact else ("down", "frozen")
TIMEOUT = 2.0  # seconds; so a frozen server is noticed soon
EACH = 3  # tasks sent together
PAUSE = 0.1  # seconds between two sendings: a slow machine stores the outcomes of what is sent, too
LOOK = 0.25  # seconds between two looks at what the store has recorded, which keep it from other work

EVERY_STORE = pytest.mark.parametrize("stage", [on(name) for name in STORES], indirect=True)


class Stream:
    """Sends tasks of a few milliseconds, of both lanes, from a thread, until it is ended."""

    def __init__(self, stage: Stage) -> None:
        self.results: list[Any] = []
        self._tasks = [stage.app.tasks[f"victim.{lane}"] for lane in ("plain", "coroutine")]
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        try:
            while not self._over.wait(PAUSE):
                for task in self._tasks:
                    self.results += task.delay_many([("sleeps", 0.005)] * EACH)
        except BaseException as error:
            self._failure = error

    def end(self) -> list[Any]:
        """Send no more; return the results of what was sent."""
        self._over.set()
        self._thread.join(PATIENCE)
        if self._failure is not None:
            raise self._failure
        return self.results


@EVERY_STORE
def test_a_worker_goes_on_when_its_result_backend_is_back(stage: Stage) -> None:
    """After it was down, and frozen for longer than a request waits, with tasks all the time."""
    worker = stage.worker(broker_publish_timeout=TIMEOUT)
    stage.record()
    stream = Stream(stage)
    try:
        recorded(stage, 2 * EACH)
        for how in OUTAGES:
            before = told(worker.text())["unavailable"]
            with stage.store_away(how):
                stage.wait(lambda before=before: told(worker.text())["unavailable"] > before, "the worker's notice")
                begun = time.monotonic()
                stage.wait(lambda begun=begun: time.monotonic() - begun > AWAY, "some time")
            back, known = time.monotonic(), len(stage.recorded())
            stage.wait(lambda known=known: len(stage.recorded()) > known, "an outcome")
            took = time.monotonic() - back
            print(f"\nP7: outcomes are stored again {took:.2f} s after a store that was {how} is back")
            assert in_time(took, WITHIN)
            stage.wait(lambda: len(set(told(worker.text()).values())) == 1, "the worker's notice of its end")
    finally:
        results = stream.end()
    results.append(stage.send("plain", "returns", 1))
    once = dict.fromkeys((result.id for result in results), 1)
    recorded(stage, len(once))
    stage.wait(stage.is_empty, "an empty broker")
    assert stage.recorded() == once
    assert Counter(run.id for run in stage.journal()) == once
    assert Counter(outcome.state for outcome in stage.app.backend.fetch(list(once)).values()) == {"SUCCESS": len(once)}
    print(f"{len(once)} tasks")
    assert in_time(told(worker.text())["unavailable"], len(OUTAGES) + 1), worker.text()  # more on a slow machine
    assert worker.stop() == 0


def recorded(stage: Stage, number: int) -> None:
    """Wait until the outcomes of so many tasks are stored."""

    def stored() -> bool:
        time.sleep(LOOK)
        return len(stage.recorded()) >= number

    stage.wait(stored, f"{number} outcomes")


def told(log: str) -> dict[str, int]:
    """Count what a worker has told of its result backend's outages."""
    return {word: len(re.findall(rf"The result backend is {word}", log)) for word in ("unavailable", "back")}


@EVERY_STORE
def test_what_a_killed_worker_could_not_store_is_run_again_and_recorded_once(stage: Stage) -> None:
    """It had ended, and waited for the result backend. Another worker, which starts meanwhile, cannot know."""
    first = stage.worker(worker_lease_seconds=SHORT_LEASE, broker_publish_timeout=TIMEOUT)
    stage.record()
    results = [stage.send(lane, "holds", stage.path("go")) for lane in ("plain", "coroutine")]
    stage.started(*results)
    with stage.store_away("down"):
        stage.release("go")
        stage.wait(lambda: len(stage.journal("end")) == 2, "the end of the tasks")
        stage.wait(lambda: told(first.text())["unavailable"], "the worker's notice")
        first.kill()
        stage.worker(ready=False, broker_publish_timeout=TIMEOUT)
    assert [result.get(timeout=PATIENCE) for result in results] == ["released"] * 2
    stage.wait(stage.is_empty, "an empty broker")
    assert [len(stage.runs(result)) for result in results] == [2, 2]
    assert stage.recorded() == dict.fromkeys((result.id for result in results), 1)
