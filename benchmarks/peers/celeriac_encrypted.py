"""Celeriac on Redis with everything encrypted: its cost."""

from __future__ import annotations

from benchmarks.peers.celeriac_redis import CeleriacRedis

KEY = "a key for this machine's benchmarks"


class CeleriacEncrypted(CeleriacRedis):
    """With a key."""

    title = "Celeriac, encrypted"
    settings = "as Celeriac, with `security_keys` and `security_encrypt`"

    def __init__(self, place: str) -> None:
        super().__init__(place, security_keys=[KEY], security_encrypt=True)


PEER = CeleriacEncrypted(__name__)
app = PEER.app
