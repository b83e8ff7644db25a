"""A SQL database: its connections, its tables, and the transactions in which the other modules work.

The backend calls `read` and `write` from any thread, and from several at a time. Each call takes a connection of a
small pool. No round trip finds out whether that was lost: the transaction is repeated on a new one if it was.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, inspect, select
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateSchema

from celeriac.drivers.registry import Registry
from celeriac.drivers.sql.address import Address
from celeriac.drivers.sql.arrays import send_binary_arrays
from celeriac.drivers.sql.columns import MYSQL
from celeriac.drivers.sql.error_translation import is_conflict, is_lost, is_missing_table, may_be_race, translated
from celeriac.drivers.sql.schema import VERSION, Tables
from celeriac.drivers.sql.shown import NOTHING, Shown
from celeriac.drivers.sql.time_limits import arguments, limit_statements
from celeriac.errors import BackendError

__all__ = ["Database", "database"]

Result = TypeVar("Result")

POOL = {"pool_size": 2, "max_overflow": 4, "pool_use_lifo": True}
CONFLICTS = 8  # how often a transaction is repeated that others get in the way of
RACES = 40  # how often the tables are looked for again, while another process makes them
PAUSE: Final = 0.02  # seconds, doubled each time, times a random number up to 1
LONGEST_PAUSE: Final = 0.5
LARGEST = 1_000_000_000  # bytes of a statement, where the server says nothing
OWN_ISOLATION = ("postgresql", *MYSQL)  # where an administrator may have made another one the default


class Database:
    """A database, and Celeriac's tables in it."""

    def __init__(self, url: str, schema: str | None, prefix: str, timeout: float, shown: Shown = NOTHING) -> None:
        self.address = Address(url)
        self.tables = Tables(schema, prefix, shown)
        self.timeout = timeout
        self.arguments: Mapping[str, Any] = {}
        """What is passed to the driver's `connect`, besides what the URL says."""
        self.largest = LARGEST
        """How many bytes a statement may have. Known once the database has been reached."""
        self._engine: Engine | None = None
        self._reading: Engine | None = None
        self._inherited: list[Engine] = []
        self._lock = threading.Lock()
        self._is_checked = False
        databases.know(self)

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Return what `work` reads. Each of its statements sees what has been committed when it begins."""
        return self._repeat(work, commit=False)

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Carry out `work` in a transaction, which is repeated if it conflicts with others: it may run several times.

        After an error all or nothing may have been written, if the connection was lost during the commit.
        """
        return self._repeat(work, commit=True)

    async def aread(self, work: Callable[[Connection], Result]) -> Result:
        """Coroutine version of `read`, in a thread."""
        return await asyncio.to_thread(self.read, work)

    async def awrite(self, work: Callable[[Connection], Result]) -> Result:
        """Coroutine version of `write`, in a thread."""
        return await asyncio.to_thread(self.write, work)

    async def arows(self, query: Any) -> list[Any]:
        """Return the rows of a query."""
        return await self.aread(lambda connection: list(connection.execute(query).all()))

    def _repeat(self, work: Callable[[Connection], Result], commit: bool) -> Result:
        give_up_at = time.monotonic() + self.timeout
        tries = 0
        while True:
            committing = False
            try:
                engine = self._checked_engine()
                with _lent(engine if commit else self._reading or engine) as connection:
                    result = work(connection)
                    committing = commit
                    if commit:
                        connection.commit()
                    return result
            except SQLAlchemyError as error:
                tries += 1
                if time.monotonic() > give_up_at or not self._may_repeat(error, committing, tries):
                    raise translated(error, self.address) from error
            time.sleep(_pause(tries))

    def _may_repeat(self, error: SQLAlchemyError, committing: bool, tries: int) -> bool:
        """Return whether a transaction should be repeated, of which nothing has been written."""
        if is_conflict(error) or (isinstance(error, IntegrityError) and not committing):
            return tries < CONFLICTS
        if is_missing_table(error):  # they have been dropped since they were looked for
            self._is_checked = False
            return tries < 2
        return is_lost(error) and not committing and tries < 3

    # --- Connections ----------------------------------------------------------------------------------

    def _checked_engine(self) -> Engine:
        """Return the engine, when the tables exist. Raises `BackendError` if they are of a newer version."""
        with self._lock:
            if self._engine is None:
                self._engine = self._new_engine()
                if self._engine.dialect.name == "postgresql":  # saves two round trips
                    self._reading = self._engine.execution_options(isolation_level="AUTOCOMMIT")
            engine = self._engine
        if not self._is_checked:  # by several threads at a time, perhaps: none waits for another's connection
            self._check(engine)
            self._is_checked = True
        return engine

    def _new_engine(self) -> Engine:
        options: dict[str, Any] = {**self._pool(), "hide_parameters": True}
        if self.address.system in OWN_ISOLATION:
            options["isolation_level"] = "READ COMMITTED"
        given = {**arguments(self.address, self.timeout), **self.arguments}
        engine = create_engine(self.address.url, connect_args=given, **options)
        limit_statements(engine, self.timeout)
        send_binary_arrays(engine)
        return engine

    def _pool(self) -> dict[str, Any]:
        """Return the options of the pool of connections."""
        return {**POOL, "pool_timeout": self.timeout}

    def close(self) -> None:
        """Close the connections. A later call opens others."""
        with self._lock:
            engine = self._engine
        if engine is not None:
            engine.dispose()

    def forget(self) -> None:
        """Leave alone what was open when this process was forked: it is the parent's."""
        self._lock = threading.Lock()
        if self._engine is not None:
            self._inherited.append(self._engine)  # so that nothing closes the parent's connections
        self._engine = self._reading = None

    # --- Tables ---------------------------------------------------------------------------------------

    def _check(self, engine: Engine) -> None:
        """Make the tables, unless they exist; those of an older version get what they lack."""
        with _lent(engine) as connection:
            tries = 0
            while True:
                try:
                    version = self._version(connection)
                    if version is None or version < VERSION:
                        self._make_tables(connection, version)
                        version = VERSION
                    break
                except DBAPIError as error:
                    tries += 1
                    if not may_be_race(error) or tries == RACES:
                        raise
                    connection.rollback()
                time.sleep(_pause(tries))
            if engine.dialect.name in MYSQL:
                self.largest = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
        if version > VERSION:
            raise BackendError(f"{self.address} has Celeriac's tables in version {version}, made by a newer version of "
                               f"Celeriac; this one knows version {VERSION}. Upgrade Celeriac here, or choose another "
                               "`sql_table_prefix`.")  # fmt: skip

    def _version(self, connection: Connection) -> int | None:
        """Return the version of the tables; None if they do not exist, or not all of them do."""
        table = self.tables.version
        if not inspect(connection).has_table(table.name, schema=table.schema):
            return None
        found: int | None = connection.execute(select(table.c.version)).scalar()
        return found

    def _make_tables(self, connection: Connection, before: int | None) -> None:
        schema = self.tables.metadata.schema
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # readers and a writer do not wait for each other
        if schema and connection.dialect.name == "postgresql" and not inspect(connection).has_schema(schema):
            connection.execute(CreateSchema(schema, if_not_exists=True))
        self.tables.metadata.create_all(connection)
        connection.execute(self.tables.new_version() if before is None else self.tables.upgrade(before))
        connection.commit()

    def __repr__(self) -> str:
        return f"<Database {self.address}>"


@contextmanager
def _lent(engine: Engine) -> Iterator[Connection]:
    """Lend a connection of the engine's pool. It is closed afterwards if the pool was, meanwhile, by `close`."""
    pool = engine.pool
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        if engine.pool is not pool:
            pool.dispose()


def _pause(tries: int) -> float:
    """Return the pause (seconds) before another try."""
    return random.random() * min(LONGEST_PAUSE, PAUSE * 2.0**tries)  # noqa: S311 - spreads those who wait


databases = Registry(Database)


def database(url: str, schema: str | None, prefix: str, timeout: float) -> Database:
    """Return the database of a URL, which all backends of this process share."""
    return databases.of(url, schema, prefix, timeout)
