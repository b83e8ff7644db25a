"""A broker whose SQLite file is a database of Django's: what is sent inside a transaction is part of it.

    atomic() ──► BEGIN on Django's connection
    delay()  ──► the message's INSERT on the same connection (`drivers/sqlite/database.py: Database.share`)
    COMMIT   ──► the row of the order and the message are there, or neither; then waiting workers are woken

`framework.py` calls `share` for each broker and backend that an app opens, and `sends_within` for what waits for a
commit otherwise.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

from django.core import checks
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.signals import connection_created

from celeriac.drivers.sqlite.address import path_of
from celeriac.drivers.sqlite.database import Database
from celeriac.errors import ImproperlyConfigured
from celeriac.tasks.current_app import apps

__all__ = ["connect", "sends_within", "share"]

SQLITE: Final = "sqlite:///"


class _Transaction:
    """A transaction of Django's that this thread has open."""

    def __init__(self, connection: Any) -> None:
        self._django = connection
        self.alias = connection.alias
        self.connection = connection.connection

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call a function once it has committed. Without `atomic`, Django cannot tell: workers look once a second."""
        if self._django.in_atomic_block:
            self._django.on_commit(call)


class _Opened(threading.local):
    """The connections that this thread has opened, by alias.

    Where an event loop runs, `connections` does not find those of the thread outside the loop; and some calls of
    Celeriac's run a loop in the thread that calls them (`ports/complete.py`). Asking `connections` would also make an
    object for each coroutine of a worker. The project's package imports the app before anything opens a connection.
    """

    def __init__(self) -> None:
        self.by_alias: dict[str, Any] = {}

    def note(self, connection: Any, **more: Any) -> None:
        """Receive the signal that a connection was opened."""
        self.by_alias[connection.alias] = connection

    def forget(self) -> None:
        """Forget the connections of the parent, after a fork."""
        self.by_alias = {}


_opened = _Opened()
os.register_at_fork(after_in_child=_opened.forget)


def connect() -> None:
    """Connect what is to be known of connections, and register the system check. Repeating it is safe."""
    connection_created.connect(_opened.note)
    checks.register(_check_transaction_mode, checks.Tags.database)


def share(port: Any) -> None:
    """Make a broker or backend part of Django's transactions, if it is in a SQLite file of Django's."""
    database = getattr(port, "database", None)
    if isinstance(database, Database) and (aliases := _aliases(database.path)):
        names = [(alias, connections.settings[alias]["NAME"]) for alias in aliases]
        database.share(partial(_open_transaction, names))


def sends_within(port: Any, using: str | None) -> bool:
    """Return whether what a broker or backend writes now is part of an open transaction of a database."""
    database = getattr(port, "database", None)
    theirs = database.callers_transaction if isinstance(database, Database) else None
    return isinstance(theirs, _Transaction) and theirs.alias == (using or DEFAULT_DB_ALIAS)


def _open_transaction(names: Sequence[tuple[str, Any]]) -> _Transaction | None:
    """Return the transaction that this thread has open on a file, by its aliases and their names."""
    for alias, name in names:
        if (connection := _opened.by_alias.get(alias)) is None or (inner := connection.connection) is None:
            continue
        if inner.in_transaction and connection.settings_dict["NAME"] == name:
            # (Tests give the database another name, and then it is another file.)
            connection.validate_no_broken_transaction()
            return _Transaction(connection)
    return None


def _aliases(path: str) -> list[str]:
    """Return the aliases of Django's databases that are in a SQLite file."""
    return [alias for alias in connections if _file_of(alias) == os.path.realpath(path)]


def _file_of(alias: str) -> str | None:
    """Return the SQLite file of a database; None if it is of another kind, or in memory."""
    settings = connections.settings[alias]
    name = str(settings["NAME"])
    if connections[alias].vendor != "sqlite" or name == ":memory:" or "mode=memory" in name:
        return None
    if name.startswith("file:"):
        name = unquote(name.removeprefix("file:").partition("?")[0])
    return os.path.realpath(name)


def _check_transaction_mode(**more: Any) -> list[checks.CheckMessage]:
    """Warn of transactions that begin by reading: they fail when a worker writes before they do."""
    aliases: set[str] = set()
    for app in apps:
        if app.framework is not None and app.broker_url.startswith(SQLITE):
            with suppress(ImproperlyConfigured):
                aliases.update(_aliases(path_of(app.broker_url)))
    return [
        checks.Warning(
            f"Workers write to the file of the database {alias!r}, and its transactions begin without a lock. One that "
            "reads before it writes fails at once ('database is locked') if a worker has written in between.",
            hint=f"DATABASES[{alias!r}]['OPTIONS'] = {{'transaction_mode': 'IMMEDIATE', 'timeout': 20}}",
            id="celeriac.W001",
        )
        for alias in sorted(aliases)
        if str(connections.settings[alias]["OPTIONS"].get("transaction_mode")).upper() not in ("IMMEDIATE", "EXCLUSIVE")
    ]
