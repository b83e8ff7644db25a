"""The embedded broker: one SQLite file, any number of processes, no server."""

from celeriac.brokers.sqlite.broker import SQLiteBroker, connect

__all__ = ["SQLiteBroker", "connect"]
