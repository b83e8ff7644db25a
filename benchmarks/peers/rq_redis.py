"""RQ: SimpleWorkers, which run tasks in their own process; `enqueue_many` for bulk; no time limits or scheduler, quiet.

Without results `result_ttl` is 0: a job is deleted when its task has ended.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from redis import Redis
from rq import Queue

from benchmarks.peers.base import NONE, RESULTS
from benchmarks.peers.redis_peer import URL, RedisPeer

RESULT_SECONDS = 0 if RESULTS == NONE else 86400
NO_LIMIT = -1
BATCH = 1000

queue = Queue("benchmark", connection=Redis.from_url(URL), default_timeout=NO_LIMIT)


def noop(argument: Any) -> Any:
    return argument


class RQRedis(RedisPeer):
    """Its fastest configuration."""

    title = "RQ"
    module = "rq"
    packages = ("rq", "redis", "hiredis")
    settings = "SimpleWorkers, no time limits; measured by messages not taken; bulk: enqueue_many"
    pace = 500

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            queue.enqueue(NOOP, argument, result_ttl=RESULT_SECONDS)

    def in_bulk(self, arguments: Iterable[Any]) -> None:
        jobs = [Queue.prepare_data(NOOP, (argument,), result_ttl=RESULT_SECONDS) for argument in arguments]
        for start in range(0, len(jobs), BATCH):
            queue.enqueue_many(jobs[start : start + BATCH])

    def roundtrip(self, timeout: float) -> Any:
        result = queue.enqueue(NOOP, 1, result_ttl=RESULT_SECONDS).latest_result(timeout=int(timeout))
        if result is None:
            raise TimeoutError
        return result.return_value

    def waiting(self) -> int:
        count: int = self.ask(("LLEN", queue.key))[0]
        return count

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "benchmarks.peers.several", str(children), "rq.cli", "worker", queue.name,
                "--url", URL, "--worker-class", "rq.worker.SimpleWorker", "--quiet"]  # fmt: skip


NOOP = f"{__name__}.{noop.__name__}"
PEER = RQRedis()
