"""Celery on Redis, with results in Redis."""

from __future__ import annotations

from benchmarks.peers.celery_family import SETTINGS, CeleryPeer
from benchmarks.peers.redis_peer import URL, RedisPeer


class CeleryRedis(CeleryPeer, RedisPeer):
    """With the settings that the issue requires."""

    packages = ("celery", "kombu", "redis", "hiredis")
    settings = f"{SETTINGS}; measured by messages not acknowledged"
    pace = 1_000

    def __init__(self, place: str) -> None:
        super().__init__(place, URL, URL)

    def waiting(self) -> int:
        queued, unacknowledged = self.ask(("LLEN", "celery"), ("HLEN", "unacked"))
        return int(queued + unacknowledged)


PEER = CeleryRedis(__name__)
app = PEER.app
