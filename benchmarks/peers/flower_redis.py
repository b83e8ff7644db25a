"""Flower's HTTP API, with Celery on Redis behind it; in an environment of its own."""

from __future__ import annotations

import json
import os
import sys

import flower  # noqa: F401 - says whether it is installed

from benchmarks.peers.celery_family import CeleryPeer
from benchmarks.peers.redis_peer import URL, RedisPeer
from benchmarks.peers.web_peer import Request, WebPeer


class FlowerRedis(CeleryPeer, RedisPeer, WebPeer):
    """With its defaults, and its API open (`FLOWER_UNAUTHENTICATED_API`), as without it Flower's API refuses all."""

    title = "Flower's API"
    module = "flower"
    packages = ("flower", "tornado", "celery", "redis")
    settings = "defaults, FLOWER_UNAUTHENTICATED_API; one process; results kept; states by /api/task/result"

    def __init__(self, place: str) -> None:
        super().__init__(place, URL, URL)

    def serve(self, port: int) -> None:
        os.environ["FLOWER_UNAUTHENTICATED_API"] = "true"
        os.execv(sys.executable, [sys.executable, "-m", "celery", "-A", self._place, "flower", "--address=127.0.0.1",
                                  f"--port={port}", "--logging=error"])  # fmt: skip

    def sending(self) -> Request:
        return "POST", "/api/task/async-apply/noop", json.dumps({"args": [1]}).encode()

    def asking(self, id: str) -> Request:
        return "GET", f"/api/task/result/{id}", b""

    def ended(self) -> str:
        result = self.noop.delay(1)
        result.get(timeout=60)
        return str(result.id)

    def waiting(self) -> int:
        return 0


PEER = FlowerRedis(__name__)
app = PEER.app
