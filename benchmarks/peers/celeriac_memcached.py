"""Celeriac's result backend on Memcached."""

from __future__ import annotations

from benchmarks.peers.celeriac_store import CeleriacStore

PEER = CeleriacStore()
