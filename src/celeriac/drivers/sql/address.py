"""The database of a `db+…://` URL: which dialect and driver of SQLAlchemy, and how errors name it.

    db+postgresql://user:password@host:5432/database        psycopg (3), unless the URL names another: db+postgresql+psycopg2://
    db+mysql://…  db+mariadb://…                            pymysql
    db+oracle://user:password@host:1521/?service_name=…     oracledb
    db+sqlite:///path/to/file.db                            Python's sqlite3
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from sqlalchemy import make_url
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from celeriac.errors import ImproperlyConfigured, nearest
from celeriac.model.masks import masked

__all__ = ["Address"]

FAMILY: Final = "db+"
EXAMPLE: Final = "db+postgresql://user:password@host:5432/database"


class _Kind(NamedTuple):
    """What is known of a database system."""

    title: str
    driver: str = ""  # taken if the URL names none
    extra: str = "sqlalchemy"  # installs that driver: `pip install 'celeriac[postgresql]'`
    port: int = 0
    ping: str = ""  # the command line that checks whether it is running


MYSQL_PING: Final = "mysqladmin -h {host} -P {port} ping"
KINDS: Final = {
    "postgresql": _Kind("PostgreSQL", "psycopg", "postgresql", 5432, "pg_isready -h {host} -p {port}"),
    "mysql": _Kind("MySQL", "pymysql", "mysql", 3306, MYSQL_PING),
    "mariadb": _Kind("MariaDB", "pymysql", "mysql", 3306, MYSQL_PING),
    "oracle": _Kind("Oracle", "oracledb", "oracle", 1521),
    "sqlite": _Kind("SQLite"),
}


class Address:
    """A database, as SQLAlchemy reaches it. Its driver is imported, and no connection is made."""

    def __init__(self, text: str) -> None:
        """Read a URL. Raises `ImproperlyConfigured`, also for a driver that is not installed."""
        self.url = _parsed(text)
        self.system = self.url.get_backend_name()
        self.kind = KINDS.get(self.system, _Kind(self.system))
        self.dialect = self._dialect(text)
        if self.system == "sqlite" and self.url.database in (None, "", ":memory:"):
            raise ImproperlyConfigured(f"{masked(text)!r} names no file: write db+sqlite:///path/to/results.db "
                                       "(or memory://).")  # fmt: skip

    def _dialect(self, text: str) -> type[Dialect]:
        try:
            dialect = self.url.get_dialect()
        except NoSuchModuleError:
            raise ImproperlyConfigured(f"SQLAlchemy knows no database {self.url.drivername!r} ({masked(text)})."
                                       f"{nearest(self.system, KINDS)} Others need a package of their own.") from None
        except ImportError as error:
            raise self._missing(text, error) from error
        if dialect.is_async:
            raise ImproperlyConfigured(f"{masked(text)!r} names a driver for asyncio. Leave the driver out: "
                                       f"{FAMILY}{self.system}://…")  # fmt: skip
        try:
            dialect.import_dbapi()
        except ImportError as error:
            raise self._missing(text, error) from error
        return dialect

    def _missing(self, text: str, error: ImportError) -> ImproperlyConfigured:
        is_ours = self.url.get_driver_name() == self.kind.driver
        package = f"'celeriac[{self.kind.extra}]'" if is_ours else error.name or self.url.get_driver_name()
        return ImproperlyConfigured(f"{masked(text)!r} needs a driver that is not installed ({error.name}): "
                                    f"pip install {package}.")  # fmt: skip

    @property
    def parameters(self) -> dict[str, Any]:
        """What the URL itself says to the driver, after its `?`."""
        return dict(self.url.query)

    @property
    def host(self) -> str:
        """The host and the port of the server."""
        return f"{self.url.host or 'localhost'}:{self.url.port or self.kind.port}"

    def step(self) -> str:
        """Return what to do if the server cannot be reached."""
        if not self.kind.ping:
            return "Is it running?"
        host, _, port = self.host.rpartition(":")
        return f"Is it running? `{self.kind.ping.format(host=host, port=port)}`"

    def __str__(self) -> str:
        if self.system == "sqlite":
            return f"The SQLite database {self.url.database}"
        return f"{self.kind.title} at {self.host}"

    def __repr__(self) -> str:
        return f"<Address {masked(self.url.render_as_string(hide_password=True))}>"


def _parsed(text: str) -> URL:
    """Return the URL with its driver."""
    try:
        url = make_url(text.removeprefix(FAMILY))
    except (ArgumentError, ValueError):
        raise ImproperlyConfigured(f"The URL {masked(text)!r} cannot be read: write {EXAMPLE}. In a user's name and "
                                   "password, @ is %40, / is %2F, and % is %25.") from None  # fmt: skip
    kind = KINDS.get(url.drivername)
    return url.set(drivername=f"{url.drivername}+{kind.driver}") if kind is not None and kind.driver else url


