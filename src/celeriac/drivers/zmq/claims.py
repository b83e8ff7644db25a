"""Claims on the hub."""

from __future__ import annotations

from celeriac.drivers.zmq.server import Server
from celeriac.ports.claims import ClaimStore

__all__ = ["HubClaims"]


class HubClaims(ClaimStore):
    """Claims in the file of a hub."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def claim(self, key: str, value: bytes, seconds: float, now: float) -> bytes | None:
        held: bytes | None = await self._server.ado("claims.claim", key, value, seconds, now)
        return held
