"""redis-py for event loops, with hiredis as its parser."""

from __future__ import annotations

import redis.asyncio

from benchmarks.clients.base import BODY, QUEUE, SCRIPT, WINDOW, AsyncClient, url


class RedisPyAsyncio(AsyncClient):
    """A client with its pool of connections."""

    title = "redis-py, asyncio"
    packages = ("redis", "hiredis", "uvloop")

    async def open(self) -> None:
        self._redis = redis.asyncio.Redis.from_url(url())
        self._sha = await self._redis.script_load(SCRIPT)

    def call_each(self, count: int) -> None:
        self.run(self._call_each(count))

    async def _call_each(self, count: int) -> None:
        for _ in range(count):
            await self._redis.evalsha(self._sha, 1, QUEUE, BODY)

    def call_pipelined(self, count: int) -> None:
        self.run(self._call_pipelined(count))

    async def _call_pipelined(self, count: int) -> None:
        for start in range(0, count, WINDOW):
            pipeline = self._redis.pipeline(transaction=False)
            for _ in range(min(WINDOW, count - start)):
                pipeline.evalsha(self._sha, 1, QUEUE, BODY)
            await pipeline.execute()


CLIENT = RedisPyAsyncio
