"""arq: worker processes, coroutine tasks, uvloop.

It polls its queue: every 10 ms instead of its default of half a second, up to 100 jobs at a time. Without results
`keep_result` is 0. It has no bulk call; jobs are enqueued concurrently.
"""

from __future__ import annotations

import sys
from typing import Any

import uvloop
from arq import create_pool  # type: ignore[import-not-found, unused-ignore]
from arq.connections import ArqRedis, RedisSettings  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.base import NONE, RESULTS
from benchmarks.peers.redis_peer import URL, AsyncRedisPeer

POLL_SECONDS = 0.01
RESULT_POLL_SECONDS = 0.001
AT_ONCE = 100

uvloop.install()


async def noop(context: Any, argument: Any) -> Any:
    return argument


class WorkerSettings:
    """Settings read by arq's command."""

    functions = [noop]
    redis_settings = RedisSettings.from_dsn(URL)
    max_jobs = AT_ONCE
    poll_delay = POLL_SECONDS if RESULTS == NONE else RESULT_POLL_SECONDS
    keep_result = 0 if RESULTS == NONE else 86400
    log_results = False


class ArqOnRedis(AsyncRedisPeer):
    """Its fastest configuration."""

    title = "arq"
    module = "arq"
    packages = ("arq", "redis", "hiredis", "uvloop")
    settings = (f"coroutines, {AT_ONCE} at a time, uvloop, polls every {POLL_SECONDS * 1000:g} ms; at least once; "
                "measured by jobs not ended; enqueued concurrently, as it has no bulk call")  # fmt: skip
    pace = 1_800
    _pool: ArqRedis

    async def open(self) -> None:
        self._pool = await create_pool(WorkerSettings.redis_settings)

    async def asend(self, argument: Any) -> None:
        await self._pool.enqueue_job("noop", argument)

    async def around(self) -> None:
        job = await self._pool.enqueue_job("noop", 1)
        await job.result(poll_delay=RESULT_POLL_SECONDS)

    def waiting(self) -> int:
        count: int = self.ask(("ZCARD", "arq:queue"))[0]
        return count

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "benchmarks.peers.several", str(children), "arq", f"{__name__}.WorkerSettings"]


PEER = ArqOnRedis()
