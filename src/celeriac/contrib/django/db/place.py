"""A database of Django's setting DATABASES, as SQLAlchemy reaches it: with the driver that Django uses.

`backend.py` asks for it whenever it makes connections, because tests replace the name of the database.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from django.db import connections
from django.db.backends.base.creation import TEST_DATABASE_PREFIX
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import URL, Dialect

from celeriac.contrib.django.db.alias import SCHEME
from celeriac.errors import ImproperlyConfigured

__all__ = ["Place", "dialect_of", "name_of", "place_of"]

DIALECTS: Final[dict[str, Any]] = {"postgresql": postgresql, "mysql": mysql, "sqlite": sqlite}
DJANGOS_OWN: Final = frozenset({"context", "cursor_factory", "conv"})
"""Arguments of drivers that Django sets for itself."""


class Place(NamedTuple):
    """How to reach a database."""

    url: str  # for `Address`; without the password
    arguments: dict[str, Any]  # of the driver's `connect`
    is_test: bool  # it was made for tests, and is dropped after them


def name_of(alias: str) -> str:
    """Return the name of a database as it is now: tests replace it."""
    return str(connections.settings[alias]["NAME"])


def dialect_of(alias: str) -> Dialect:
    """Return SQLAlchemy's dialect of a database. Raises `ImproperlyConfigured` if it cannot keep results."""
    connection = connections[alias]
    if connection.vendor not in DIALECTS:
        raise ImproperlyConfigured(f"{SCHEME}:// keeps results in PostgreSQL, MariaDB, MySQL and SQLite, and the "
                                   f"database {alias!r} is {connection.display_name}. Set `result_backend` to another "
                                   "URL, such as db+oracle://….")  # fmt: skip
    made: Dialect = DIALECTS[connection.vendor].dialect()
    return made


def place_of(alias: str) -> Place:
    """Return how to reach a database. Raises `ImproperlyConfigured` if it cannot keep results."""
    dialect_of(alias)
    connection = connections[alias]
    makers = {"postgresql": _postgresql, "mysql": _mysql, "sqlite": _sqlite}
    url, arguments = makers[connection.vendor](connection, connection.get_connection_params())
    given = {name: value for name, value in arguments.items() if name not in DJANGOS_OWN}
    return Place(f"db+{url.render_as_string(hide_password=False)}", given, _is_test(alias))


def _is_test(alias: str) -> bool:
    """Return whether a database is one of tests, by its name."""
    name, chosen = name_of(alias), connections.settings[alias]["TEST"]["NAME"]
    return name.startswith(TEST_DATABASE_PREFIX) or "mode=memory" in name or bool(chosen and name == str(chosen))


def _postgresql(connection: Any, arguments: dict[str, Any]) -> tuple[URL, dict[str, Any]]:
    if role := connection.settings_dict["OPTIONS"].get("assume_role"):
        quoted = "".join(f"\\{char}" if char in "\\ " else char for char in role)
        arguments["options"] = f"{arguments.get('options', '')} -c role={quoted}".strip()
    driver = connection.Database.__name__  # psycopg or psycopg2
    return _server(f"postgresql+{driver}", arguments, arguments.get("dbname")), arguments


def _mysql(connection: Any, arguments: dict[str, Any]) -> tuple[URL, dict[str, Any]]:
    driver = connection.Database.__name__.lower()  # mysqldb, or pymysql in its place
    return _server(f"mysql+{driver}", arguments, arguments.get("database")), arguments


def _server(name: str, arguments: dict[str, Any], database: str | None) -> URL:
    """Return the URL of a server. What else is to be known, as a password or a socket, is in the arguments."""
    host = arguments.get("host") or ""
    shown = host if host.replace("-", "").replace(".", "").isalnum() else None  # neither a socket nor several hosts
    port = str(arguments.get("port") or "")
    return URL.create(name, arguments.get("user") or None, host=shown, port=int(port) if port.isdigit() else None,
                      database=database)  # fmt: skip


def _sqlite(connection: Any, arguments: dict[str, Any]) -> tuple[URL, dict[str, Any]]:
    name = str(arguments["database"])
    if name == ":memory:":
        raise ImproperlyConfigured(f"The database {connection.alias!r} is in memory, where no other process finds its "
                                   f"results: give it a file, or set `result_backend` to memory://.")  # fmt: skip
    if not name.startswith("file:"):
        return URL.create("sqlite", database=name), {}
    path, _, query = name.partition("?")
    return URL.create("sqlite", database=path, query={**dict(parse_qsl(query)), "uri": "true"}), {}
