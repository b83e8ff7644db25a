"""Claims in Redis: keys that expire."""

from __future__ import annotations

import os
from typing import Final

from celeriac.drivers.redis.server import Server
from celeriac.ports.claims import ClaimStore

__all__ = ["RedisClaimStore"]

MARK: Final = 16  # random bytes before each value


class RedisClaimStore(ClaimStore):
    """Claims as `P:claim:KEY`. A random mark tells a claim of this call, whose reply was lost, from all others."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def claim(self, key: str, value: bytes, seconds: float, now: float) -> bytes | None:
        name, marked = f"{self._server.prefix}:claim:{key}", os.urandom(MARK) + value
        while True:
            take = ("SET", name, marked, "NX", "PX", max(1, round(seconds * 1000)))
            if seconds > 0 and await self._server.ado(take) is not None:
                return None
            held = await self._server.ado(("GET", name))
            if seconds > 0 and held == marked:
                return None  # the first reply was lost, and the command was sent again
            if held is not None or seconds <= 0:
                return None if held is None else bytes(held[MARK:])
