"""redis-py, blocking, with hiredis as its parser."""

from __future__ import annotations

import redis

from benchmarks.clients.base import BODY, QUEUE, SCRIPT, WINDOW, Client, url


class RedisPy(Client):
    """A client with its pool of connections."""

    title = "redis-py, blocking"
    packages = ("redis", "hiredis")

    def __init__(self) -> None:
        super().__init__()
        self._redis = redis.Redis.from_url(url())
        self._sha = self._redis.script_load(SCRIPT)

    def call_each(self, count: int) -> None:
        for _ in range(count):
            self._redis.evalsha(self._sha, 1, QUEUE, BODY)

    def call_pipelined(self, count: int) -> None:
        for start in range(0, count, WINDOW):
            pipeline = self._redis.pipeline(transaction=False)
            for _ in range(min(WINDOW, count - start)):
                pipeline.evalsha(self._sha, 1, QUEUE, BODY)
            pipeline.execute()


CLIENT = RedisPy
