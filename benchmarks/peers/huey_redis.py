"""Huey on Redis: process workers that wait in BRPOP; no periodic tasks, no health check, quiet.

`notify_result`, which avoids polling for results, is on only when results are awaited, because it costs time. Huey has
no bulk call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from huey import RedisHuey  # type: ignore[import-untyped]

from benchmarks.peers.base import AWAITED, NONE, RESULTS
from benchmarks.peers.redis_peer import URL, RedisPeer

huey = RedisHuey("benchmark", url=URL, results=RESULTS != NONE, notify_result=RESULTS == AWAITED)


def noop(argument: Any) -> Any:
    return argument


task = huey.task()(noop)


class HueyOnRedis(RedisPeer):
    """Its fastest configuration."""

    title = "Huey"
    module = "huey"
    packages = ("huey", "redis", "hiredis")
    settings = ("processes, blocking pop, -n -C -q, notify_result for round trips; at most once; measured by "
                "messages not taken; no bulk call")  # fmt: skip
    pace = 5_000

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            task(argument)

    def roundtrip(self, timeout: float) -> Any:
        return task(1).get(blocking=True, timeout=timeout)

    def waiting(self) -> int:
        count: int = self.ask(("LLEN", huey.storage.queue_key))[0]
        return count

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "huey.bin.huey_consumer", f"{__name__}.huey", "-k", "process",
                "-w", str(children), "-q", "-n", "-C"]  # fmt: skip


PEER = HueyOnRedis()
