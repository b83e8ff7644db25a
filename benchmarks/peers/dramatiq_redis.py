"""Dramatiq on Redis; results are stored where they are measured."""

from __future__ import annotations

from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.base import NONE, RESULTS
from benchmarks.peers.dramatiq_family import SETTINGS, DramatiqPeer
from benchmarks.peers.redis_peer import URL, RedisPeer

broker = RedisBroker(url=URL)
if RESULTS != NONE:
    broker.add_middleware(Results(backend=RedisBackend(url=URL)))


class DramatiqRedis(DramatiqPeer, RedisPeer):
    """With the settings that the issue requires."""

    packages = ("dramatiq", "redis", "hiredis")
    settings = f"{SETTINGS}; measured by messages not acknowledged"
    pace = 4_000

    def waiting(self) -> int:
        count: int = self.ask(("HLEN", "dramatiq:default.msgs"))[0]
        return count


PEER = DramatiqRedis(__name__, broker, **({"store_results": True} if RESULTS != NONE else {}))
