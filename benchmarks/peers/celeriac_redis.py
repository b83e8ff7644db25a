"""Celeriac on Redis."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers.celeriac_family import CeleriacPeer
from benchmarks.peers.redis_peer import URL, RedisPeer

MESSAGES = "celeriac:{default}:messages"  # every message from `publish` to its settlement
SLEEP_SECONDS = 0.01


def sleep() -> None:
    time.sleep(SLEEP_SECONDS)


class CeleriacRedis(CeleriacPeer, RedisPeer):
    """With default settings."""

    packages = ("celeriac", "uvloop", "hiredis")
    settings = "defaults: children are processes; at least once, acknowledged late; measured by messages not settled"
    pace = 50_000

    def __init__(self, place: str, **settings: Any) -> None:
        super().__init__(place, URL, **settings)
        self._sleep = self.app.task(name="sleep")(sleep)

    def send_naps(self, count: int) -> None:
        self._sleep.delay_many(() for _ in range(count))

    def waiting(self) -> int:
        count: int = self.ask(("HLEN", MESSAGES))[0]
        return count


PEER = CeleriacRedis(__name__)
app = PEER.app
