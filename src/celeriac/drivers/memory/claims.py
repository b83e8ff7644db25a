"""Claims in the memory of one process."""

from __future__ import annotations

import threading

from celeriac.ports.claims import ClaimStore

__all__ = ["MemoryClaimStore"]

SOME = 1000  # claims; whenever as many more are kept, those that have expired are deleted


class MemoryClaimStore(ClaimStore):
    """Claims in a dict, under one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[str, tuple[bytes, float]] = {}  # value, until when
        self._most = SOME

    async def claim(self, key: str, value: bytes, seconds: float, now: float) -> bytes | None:
        with self._lock:
            held, until = self._claims.get(key, (b"", 0.0))
            if until > now:
                return held
            if seconds > 0:
                self._claims[key] = (value, now + seconds)
            if len(self._claims) > self._most:
                self._claims = {key: claim for key, claim in self._claims.items() if claim[1] > now}
                self._most = len(self._claims) + SOME
            return None
