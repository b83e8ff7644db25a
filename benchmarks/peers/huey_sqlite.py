"""Huey on SQLite with default settings: SQLite's default, which in most builds syncs the disk at each commit."""

from __future__ import annotations

from benchmarks.peers.huey_family import HueyPeer


class Huey(HueyPeer):
    """With default settings."""

    title = "Huey"


PEER = Huey(__name__, "SQLite's default synchronous (usually full)")
huey = PEER.huey
