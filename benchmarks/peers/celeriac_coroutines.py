"""Celeriac on Redis with one child for coroutines: a separate app, so that other measurements lack this child."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.peers.celeriac_redis import CeleriacRedis

AT_ONCE = 1000
SLEEP_SECONDS = 1.0


async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


class CeleriacCoroutines(CeleriacRedis):
    """One coroutine child, a thousand at a time."""

    title = "Celeriac, coroutines"
    settings = f"1 child for coroutines, {AT_ONCE:,} at a time; at least once, results kept"

    def __init__(self, place: str) -> None:
        super().__init__(place, worker_coroutine_children=1, worker_coroutine_concurrency=AT_ONCE)
        self._nap = self.app.task(name="nap")(nap)

    def send_naps(self, count: int) -> None:
        self._nap.delay_many((SLEEP_SECONDS,) for _ in range(count))

    def roundtrip(self, timeout: float) -> Any:
        return self._nap.delay(0.0).get(timeout)


PEER = CeleriacCoroutines(__name__)
app = PEER.app
