"""Celery on Redis, as the issue sets it: prefork, 2 children, prefetch 64, gossip, mingle and heartbeat off.

Beyond that, as its pages advise for speed: no results where none are wanted (`ignore_result`), rate limits off, events
off, as they are by default. It has no bulk call: a group sends one by one, and so does this, with one producer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from celery import Celery  # type: ignore[import-untyped]

from benchmarks.peers.base import NONE
from benchmarks.peers.redis_peer import RESULTS, URL, RedisPeer

PREFETCH = 64

app = Celery("benchmark", broker=URL, backend=None if RESULTS == NONE else URL)
app.conf.update(
    task_ignore_result=RESULTS == NONE,
    worker_prefetch_multiplier=PREFETCH,
    worker_disable_rate_limits=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(argument: Any) -> Any:
    return argument


class CeleryRedis(RedisPeer):
    """As the issue sets it."""

    title = "Celery"
    module = "celery"
    packages = ("celery", "kombu", "redis", "hiredis")
    settings = (f"prefork, prefetch {PREFETCH} for each child, --without-gossip --without-mingle --without-heartbeat, "
                "rate limits off; at most once (acknowledged early); seen: messages not acknowledged; no bulk call"
                )  # fmt: skip
    pace = 1_000

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            noop.delay(argument)

    def in_bulk(self, arguments: Iterable[Any]) -> None:
        with app.producer_or_acquire() as producer:
            for argument in arguments:
                noop.apply_async((argument,), producer=producer)

    def roundtrip(self, timeout: float) -> Any:
        return noop.delay(1).get(timeout=timeout)

    def waiting(self) -> int:
        queued, unacknowledged = self.ask(("LLEN", "celery"), ("HLEN", "unacked"))
        return int(queued + unacknowledged)

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", __name__, "worker", "-P", "prefork", "-c", str(children),
                "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]  # fmt: skip


PEER = CeleryRedis()
