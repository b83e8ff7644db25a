"""Claims in Redis: keys that expire."""

from __future__ import annotations

from celeriac.drivers.redis.server import Server
from celeriac.ports.claims import ClaimStore

__all__ = ["RedisClaimStore"]


class RedisClaimStore(ClaimStore):
    """Claims as `P:claim:KEY`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def claim(self, key: str, value: bytes, seconds: float, now: float) -> bytes | None:
        """Take a key, or return the value that it has."""
        name = f"{self._server.prefix}:claim:{key}"
        while True:
            take = ("SET", name, value, "NX", "PX", max(1, round(seconds * 1000)))
            if seconds > 0 and await self._server.ado(take) is not None:
                return None
            held = await self._server.ado(("GET", name))
            if seconds > 0 and held == value:
                return None  # it is this claim: the first reply was lost, and the command was sent again
            if held is not None or seconds <= 0:
                return None if held is None else bytes(held)
