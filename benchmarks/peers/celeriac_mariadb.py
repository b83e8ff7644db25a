"""Celeriac's result backend on MariaDB."""

from __future__ import annotations

from benchmarks.peers.celeriac_store import CeleriacStore

PEER = CeleriacStore("sqlalchemy", "pymysql")
