"""Celeriac on Redis with everything signed: its cost."""

from __future__ import annotations

from benchmarks.peers.celeriac_redis import CeleriacRedis

KEY = "a key for this machine's benchmarks"


class CeleriacSigned(CeleriacRedis):
    """With a key."""

    title = "Celeriac, signed"
    settings = "as Celeriac, with `security_keys`"

    def __init__(self, place: str) -> None:
        super().__init__(place, security_keys=[KEY])


PEER = CeleriacSigned(__name__)
app = PEER.app
