"""Our driver's blocking side."""

from __future__ import annotations

from benchmarks.clients.base import BODY, QUEUE, SCRIPT, WINDOW, Client, url
from celeriac.drivers.redis.server import server


class CeleriacRedis(Client):
    """A server with its pool of connections."""

    title = "Celeriac, blocking"
    packages = ("celeriac", "hiredis")

    def __init__(self) -> None:
        super().__init__()
        self._server = server(url())
        self._command = ("EVALSHA", self._server.do(("SCRIPT", "LOAD", SCRIPT)), 1, QUEUE, BODY)

    def call_each(self, count: int) -> None:
        for _ in range(count):
            self._server.do(self._command)

    def call_pipelined(self, count: int) -> None:
        for start in range(0, count, WINDOW):
            self._server.do_all([self._command] * min(WINDOW, count - start))


CLIENT = CeleriacRedis
