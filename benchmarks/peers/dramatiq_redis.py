"""Dramatiq on Redis: 2 processes of 8 threads. The middleware is its default; results are stored where they are wanted.

It has no bulk call: a group sends one by one, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.base import NONE
from benchmarks.peers.redis_peer import RESULTS, URL, RedisPeer

THREADS = 8

broker = RedisBroker(url=URL)
if RESULTS != NONE:
    broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


def noop(argument: Any) -> Any:
    return argument if RESULTS != NONE else None


actor = dramatiq.actor(noop, **({"store_results": True} if RESULTS != NONE else {}))


class DramatiqRedis(RedisPeer):
    """As the issue sets it."""

    title = "Dramatiq"
    module = "dramatiq"
    packages = ("dramatiq", "redis", "hiredis")
    settings = (f"processes of {THREADS} threads, default middleware; at least once; seen: messages not acknowledged; "
                "no bulk call")  # fmt: skip
    pace = 4_000

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            actor.send(argument)

    def roundtrip(self, timeout: float) -> Any:
        return actor.send(1).get_result(block=True, timeout=int(timeout * 1000))

    def waiting(self) -> int:
        count: int = self.ask(("HLEN", "dramatiq:default.msgs"))[0]
        return count

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "dramatiq", __name__, "-p", str(children), "-t", str(THREADS), "--skip-logging"]


PEER = DramatiqRedis()
