"""Celeriac's HTTP API, with Redis behind it."""

from __future__ import annotations

import json

from benchmarks.peers.celeriac_family import CeleriacPeer
from benchmarks.peers.redis_peer import URL, RedisPeer
from benchmarks.peers.web_peer import Request, WebPeer
from celeriac.web import api
from celeriac.web.serving import serve


class CeleriacWeb(CeleriacPeer, RedisPeer, WebPeer):
    """With default settings, but for the limit of requests of one user. One process serves."""

    title = "Celeriac's HTTP API"
    packages = ("celeriac", "starlette", "uvicorn", "hiredis")
    settings = "`celeriac web` as it is, without tokens; one process; results kept; a history"

    def __init__(self, place: str) -> None:
        super().__init__(place, URL, web_rate=1_000_000)

    def serve(self, port: int) -> None:
        serve(api(self.app), "127.0.0.1", port, lambda address: None)

    def sending(self) -> Request:
        return "POST", "/api/v1/tasks", json.dumps({"task": "noop", "args": [1]}).encode()

    def asking(self, id: str) -> Request:
        return "GET", f"/api/v1/tasks/{id}", b""

    def ended(self) -> str:
        result = self.noop.delay(1)
        result.get(60)
        return str(result.id)

    def waiting(self) -> int:
        return 0


PEER = CeleriacWeb(__name__)
app = PEER.app
