"""Huey on its SQLite storage as shipped: SQLite's own default, which on most builds syncs the disk at each commit."""

from __future__ import annotations

from benchmarks.peers.huey_family import HueyPeer


class Huey(HueyPeer):
    """As shipped."""

    title = "Huey"


PEER = Huey(__name__, "SQLite's default synchronous (usually full)")
huey = PEER.huey
