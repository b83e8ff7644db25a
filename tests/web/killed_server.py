"""A server of the HTTP API that kills itself at an exact point of a request: `python -m tests.web.killed_server`.

    python -m tests.web.killed_server FOLDER

It imports the app of the folder once, listens, prints its port, and forks one server after the other on that socket: as
soon as one has died, the next takes its place, so that a client can repeat its request at once. A request with the
header `X-Kill: POINT` kills the server that handles it with SIGKILL; see `POINTS`. It ends when its input ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvicorn
from starlette.requests import Request

from celeriac import Celeriac
from celeriac.web import Limits, User, api, idempotency

__all__ = ["POINTS"]

POINTS: Final = ("before the claim", "after the claim", "after publishing", "after the mark")
"""Between which steps of a request with an Idempotency-Key the server dies."""


def main(folder: str) -> None:
    """Serve until the input ends."""
    os.chdir(folder)
    sys.path.insert(0, folder)
    app: Celeriac = __import__("shop").app
    _ = app.broker, app.backend  # import the adapters once, not in every server
    app.close()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        while True:
            pid = os.fork()
            if pid == 0:
                serve(app, listening)
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
                return


def serve(app: Celeriac, listening: socket.socket) -> None:
    """Serve until a request kills this process, or the input of the program ends."""
    point = ""

    def authenticate(request: Request) -> User:
        nonlocal point
        point = request.headers.get("x-kill", "")
        return User("ann", frozenset({"admin"}))

    def dies(function: Callable[..., Awaitable[Any]], before: str = "", after: str = "") -> Callable[..., Any]:
        async def wrapped(*arguments: Any, **options: Any) -> Any:
            if point and point == before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = await function(*arguments, **options)
            if point and point == after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    idempotency._claimed = dies(idempotency._claimed, "before the claim", "after the mark")
    idempotency._publish = dies(idempotency._publish, "after the claim", "after publishing")
    site = api(app, authenticate=authenticate, limits=Limits(rate=1e9, burst=10**9))
    server = uvicorn.Server(uvicorn.Config(site, lifespan="off", log_config=None, access_log=False))

    async def run() -> None:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), setattr, server, "should_exit", True)
        await server.serve([listening])

    asyncio.run(run())


if __name__ == "__main__":
    main(sys.argv[1])
