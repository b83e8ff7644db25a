"""Celeriac's result backend on MongoDB."""

from __future__ import annotations

from benchmarks.peers.celeriac_store import CeleriacStore

PEER = CeleriacStore("pymongo")
