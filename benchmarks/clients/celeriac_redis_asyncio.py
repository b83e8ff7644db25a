"""Our driver's side for event loops."""

from __future__ import annotations

from benchmarks.clients.base import BODY, QUEUE, SCRIPT, WINDOW, AsyncClient, url
from celeriac.drivers.redis.server import server


class CeleriacRedisAsyncio(AsyncClient):
    """A server with one connection for its loop."""

    title = "Celeriac, asyncio"
    packages = ("celeriac", "hiredis", "uvloop")

    async def open(self) -> None:
        self._server = server(url())
        self._command = ("EVALSHA", await self._server.ado(("SCRIPT", "LOAD", SCRIPT)), 1, QUEUE, BODY)

    def call_each(self, count: int) -> None:
        self.run(self._call_each(count))

    async def _call_each(self, count: int) -> None:
        for _ in range(count):
            await self._server.ado(self._command)

    def call_pipelined(self, count: int) -> None:
        self.run(self._call_pipelined(count))

    async def _call_pipelined(self, count: int) -> None:
        for start in range(0, count, WINDOW):
            await self._server.ado_all([self._command] * min(WINDOW, count - start))


CLIENT = CeleriacRedisAsyncio
