"""Celeriac's scheduler on the embedded SQLite file."""

from __future__ import annotations

from benchmarks.peers.base import FOLDER
from benchmarks.peers.celeriac_beat import CeleriacBeat

PEER = CeleriacBeat(f"sqlite:///{FOLDER / 'celeriac.db'}",
                    "defaults: SQLite, WAL, synchronous=normal; each tick once, with any number of schedulers")
