"""Celery's beat with its default scheduler, whose state is in a shelve file; it sends to Redis."""

from __future__ import annotations

import threading
import time
from typing import Any

from celery import Celery, signals  # type: ignore[import-untyped]
from celery.beat import PersistentScheduler, Service  # type: ignore[import-untyped]
from celery.schedules import schedule  # type: ignore[import-untyped]

from benchmarks.peers.base import FOLDER
from benchmarks.peers.beat_peer import BeatPeer
from benchmarks.peers.redis_peer import URL


class CeleryBeat(BeatPeer):
    """Its intervals begin with its start, so that a tick has no time by which it could be late."""

    title = "Celery beat"
    module = "celery"
    packages = ("celery", "kombu", "redis", "hiredis")
    settings = "default scheduler (a shelve file), one process; two would send everything twice"

    def __init__(self) -> None:
        self.app = Celery("benchmark", broker=URL)
        self.app.conf.task_ignore_result = True
        self.app.task(name="noop")(_noop)

    def schedule(self, count: int, period: int) -> None:
        """Do nothing: the schedules are declared by the process that runs them; see `beat`."""

    def beat(self, seconds: int, count: int, period: int) -> dict[str, Any]:
        self.app.conf.beat_schedule = {
            f"x{number}": {"task": "noop", "schedule": schedule(period), "args": (1,)} for number in range(count)
        }
        sent = 0

        def note(**_: Any) -> None:
            nonlocal sent
            sent += 1

        signals.after_task_publish.connect(note, weak=False)
        threading.Thread(target=self._service().start, daemon=True).start()  # it may sleep for minutes
        time.sleep(seconds)
        return {"sent": sent, "late": []}

    def declare(self, count: int) -> float:
        self.app.conf.beat_schedule = {
            f"x{number}": {"task": "noop", "schedule": schedule(3600), "args": (number,)} for number in range(count)
        }
        begun = time.perf_counter()
        self._service().scheduler.tick()
        return time.perf_counter() - begun

    def _service(self) -> Any:
        return Service(self.app, scheduler_cls=PersistentScheduler, schedule_filename=str(FOLDER / "beat"))


def _noop(number: int) -> int:
    return number


PEER = CeleryBeat()
