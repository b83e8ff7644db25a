"""Celeriac's result backend on PostgreSQL."""

from __future__ import annotations

from benchmarks.peers.celeriac_store import CeleriacStore

PEER = CeleriacStore("sqlalchemy", "psycopg")
