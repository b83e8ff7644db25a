"""The embedded broker: one SQLite file for any number of processes, and no server."""

from celeriac.brokers.sqlite.broker import SQLiteBroker, connect

__all__ = ["SQLiteBroker", "connect"]
