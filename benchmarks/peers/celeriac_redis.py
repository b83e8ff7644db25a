"""Ours, on Redis."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.peers.base import NONE
from benchmarks.peers.redis_peer import RESULTS, URL, RedisPeer
from celeriac import Celeriac

MESSAGES = "celeriac:{default}:messages"  # every message from `publish` to its settlement
SLEEP_SECONDS = 0.01

app = Celeriac("benchmark", broker_url=URL, task_ignore_result=RESULTS == NONE)


@app.task(name="noop")
def noop(argument: Any) -> Any:
    return argument


@app.task(name="sleep")
def sleep() -> None:
    time.sleep(SLEEP_SECONDS)


class CeleriacRedis(RedisPeer):
    """As shipped."""

    title = "Celeriac"
    module = "celeriac"
    packages = ("celeriac", "uvloop", "hiredis")
    settings = "as shipped: children are processes; at least once, acknowledged late; seen: messages not settled"
    pace = 50_000

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            noop.delay(argument)

    def in_bulk(self, arguments: Iterable[Any]) -> None:
        noop.delay_many((argument,) for argument in arguments)

    def send_naps(self, count: int) -> None:
        sleep.delay_many(() for _ in range(count))

    def roundtrip(self, timeout: float) -> Any:
        return noop.delay(1).get(timeout)

    def waiting(self) -> int:
        count: int = self.ask(("HLEN", MESSAGES))[0]
        return count

    def hold(self, held: bool) -> None:
        operations = app.broker.operations()
        app.broker.complete(operations.pause("default") if held else operations.resume("default"))

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "celeriac.cli", "-A", "benchmarks.peers.celeriac_redis", "worker",
                "-c", str(children)]  # fmt: skip


PEER = CeleriacRedis()
