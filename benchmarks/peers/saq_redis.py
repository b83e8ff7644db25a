"""SAQ: worker processes, coroutine tasks (plain functions would run in threads), uvloop.

Without results `ttl` is -1: a job is deleted when its task has ended. SAQ has no bulk call; jobs are enqueued
concurrently.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import uvloop
from saq import Queue  # type: ignore[import-not-found, unused-ignore]
from saq.queue import JobError  # type: ignore[import-not-found, unused-ignore]

from benchmarks.peers.base import NONE, RESULTS
from benchmarks.peers.redis_peer import URL, AsyncRedisPeer

CONCURRENCY = 10  # its default; a hundred were measured to be no faster
POLL_SECONDS = 0.001  # between two polls for a result
KEPT_SECONDS = -1 if RESULTS == NONE else 86400

uvloop.install()
queue = Queue.from_url(URL)


async def noop(context: Any, *, argument: Any) -> Any:
    return argument


settings = {"queue": queue, "functions": [noop], "concurrency": CONCURRENCY}


class SAQRedis(AsyncRedisPeer):
    """Its fastest configuration."""

    title = "SAQ"
    module = "saq"
    packages = ("saq", "redis", "hiredis", "uvloop")
    settings = (f"coroutines, {CONCURRENCY} at a time, uvloop; at least once; measured by jobs not ended; "
                "enqueued concurrently, as it has no bulk call")  # fmt: skip
    pace = 3_000

    async def asend(self, argument: Any) -> None:
        await queue.enqueue("noop", argument=argument, ttl=KEPT_SECONDS)

    async def around(self) -> None:
        await queue.apply("noop", poll_interval=POLL_SECONDS, argument=1)

    def ready(self) -> None:
        while True:
            try:
                return super().ready()
            except JobError:
                time.sleep(POLL_SECONDS)  # a starting worker sweeps jobs that another one has just taken

    def waiting(self) -> int:
        count: int = self.ask(("ZCARD", "saq:default:incomplete"))[0]
        return count

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "saq", f"{__name__}.settings", "--workers", str(children)]


PEER = SAQRedis()
