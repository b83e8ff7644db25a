"""Taskiq on Redis, with taskiq-redis.

Its list broker (BRPOP, one message at a time) was measured to be faster than its stream broker, which reads a hundred
at once but acknowledges each with a round trip; `--max-prefetch` made it slower. Its worker uses uvloop, which is
installed. `--no-parse` turns off pydantic for arguments. Taskiq has no bulk call; tasks are sent concurrently.
"""

from __future__ import annotations

import sys
from typing import Any

from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.peers.base import NONE, RESULTS
from benchmarks.peers.redis_peer import URL, AsyncRedisPeer

POLL_SECONDS = 0.001  # between two polls for a result; it has no other way to wait
CONNECTIONS = 20

broker = ListQueueBroker(URL, max_connection_pool_size=CONNECTIONS)
if RESULTS != NONE:
    broker = broker.with_result_backend(RedisAsyncResultBackend(URL, max_connection_pool_size=CONNECTIONS))


@broker.task(task_name="noop")
async def noop(argument: Any) -> Any:
    return argument


class TaskiqRedis(AsyncRedisPeer):
    """Its fastest configuration."""

    title = "Taskiq"
    module = "taskiq"
    packages = ("taskiq", "taskiq-redis", "redis", "hiredis", "uvloop")
    settings = (f"list broker, --no-parse, uvloop; callers poll every {POLL_SECONDS * 1000:g} ms; at most once; "
                "measured by messages not taken; sent concurrently, as it has no bulk call")  # fmt: skip
    pace = 5_000

    async def open(self) -> None:
        await broker.startup()

    async def asend(self, argument: Any) -> None:
        await noop.kiq(argument)

    async def around(self) -> None:
        await (await noop.kiq(1)).wait_result(check_interval=POLL_SECONDS)

    def waiting(self) -> int:
        count: int = self.ask(("LLEN", broker.queue_name))[0]
        return count

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "taskiq", "worker", f"{__name__}:broker", "--workers", str(children),
                "--no-parse", "--log-level", "WARNING"]  # fmt: skip


PEER = TaskiqRedis()
