"""Starlette alone: two routes that read and write JSON of the same size, and do nothing."""

from __future__ import annotations

import json
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as Asked
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.peers.web_peer import Request, WebPeer

ID = "0197a1b2-c3d4-7000-8000-000000000000"
ANSWER = {"id": ID, "task": "noop", "state": "PENDING", "queue": "default", "due_at": None,
          "links": {name: f"/api/v1/tasks/{ID}/{name}" for name in ("self", "revoke", "result", "events")}}  # fmt: skip


async def sent(request: Asked) -> JSONResponse:
    json.loads(await request.body())
    return JSONResponse(ANSWER, 202)


async def asked(request: Asked) -> JSONResponse:
    return JSONResponse(ANSWER)


class BareStarlette(WebPeer):
    """What an HTTP API on this server cannot exceed."""

    title = "bare Starlette route"
    module = "starlette"
    packages = ("starlette", "uvicorn")
    settings = "uvicorn with h11, as `celeriac web` has it; no broker"

    def serve(self, port: int) -> None:
        routes = [Route("/tasks", sent, methods=["POST"]), Route("/tasks/{id}", asked)]
        uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=port, http="h11", ws="none", lifespan="off",
                    log_config=None, access_log=False, server_header=False)  # fmt: skip

    def sending(self) -> Request:
        return "POST", "/tasks", json.dumps({"task": "noop", "args": [1]}).encode()

    def asking(self, id: str) -> Request:
        return "GET", f"/tasks/{id}", b""

    def ended(self) -> str:
        return ID

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-c", "import time; time.sleep(600)"]  # there is none


PEER = BareStarlette()
