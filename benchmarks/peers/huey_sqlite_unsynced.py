"""Huey on SQLite at its fastest: no disk syncs, so it promises less than Celeriac, which syncs at checkpoints."""

from __future__ import annotations

from benchmarks.peers.huey_family import HueyPeer


class HueyUnsynced(HueyPeer):
    """With `fsync=False`."""

    title = "Huey, fsync=False"


PEER = HueyUnsynced(__name__, "synchronous=off", fsync=False)
huey = PEER.huey
