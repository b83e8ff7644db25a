"""Ours, on Redis, with one child that runs coroutines: an app of its own, so that no other measure has that child."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from benchmarks.peers.celeriac_redis import CeleriacRedis
from benchmarks.peers.redis_peer import URL
from celeriac import Celeriac

AT_ONCE = 1000
SLEEP_SECONDS = 1.0

app = Celeriac("benchmark", broker_url=URL, worker_coroutine_children=1, worker_coroutine_concurrency=AT_ONCE)


@app.task(name="nap")
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


class CeleriacCoroutines(CeleriacRedis):
    """One coroutine child, a thousand at a time."""

    title = "Celeriac, coroutines"
    settings = f"1 child for coroutines, {AT_ONCE:,} at a time; at least once, results kept"

    def send_naps(self, count: int) -> None:
        nap.delay_many((SLEEP_SECONDS,) for _ in range(count))

    def roundtrip(self, timeout: float) -> Any:
        return nap.delay(0.0).get(timeout)

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "celeriac.cli", "-A", __name__, "worker", "-c", str(children)]


PEER = CeleriacCoroutines()
