"""Celeriac's scheduler on Redis."""

from __future__ import annotations

from benchmarks.peers.celeriac_beat import CeleriacBeat
from benchmarks.peers.redis_peer import URL

PEER = CeleriacBeat(URL, "defaults: schedules and messages in Redis; each tick once, with any number of schedulers")
