"""One SQLite file, for every thread and process that uses it.

Write transactions are short, start with `BEGIN IMMEDIATE`, and are tried again while another process writes: blocking
in `write`, without blocking the event loop in `awrite`. Readers never wait (WAL). Each thread has a connection
of its own, made anew after a fork. SQLite's errors become ours here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from celeriac.drivers.sqlite.schema import APPLICATION_ID, MIGRATIONS
from celeriac.drivers.sqlite.watch import Bell, Watch
from celeriac.errors import (
    BrokerError,
    BrokerMisconfigured,
    BrokerUnavailable,
    ForeignDatabase,
    ImproperlyConfigured,
)

__all__ = ["Database", "database", "path_of"]

Work = TypeVar("Work")

HEADER: Final = b"SQLite format 3\x00"
CREATION_SECONDS: Final = 0.5  # how long another process may need to create the file
BELL: Final = "-bell"  # the file beside the database whose watchers are woken by a commit; see `watch`
PAGE_BYTES: Final = 2048  # a commit writes every page that it touched: small ones make small commits faster
CHECKPOINT_PAGES: Final = 16_000  # the log is copied into the file every 32 MB


class _Session:
    """What one thread has open; closed with the thread."""

    def __init__(self, connection: sqlite3.Connection, bell: Bell) -> None:
        self.connection = connection
        self.bell = bell
        self.watch: Watch | None = None
        self.pid = os.getpid()
        self.generation = _generation

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()
        self.bell.close()
        self.connection.close()

    def __del__(self) -> None:
        if self.pid == os.getpid():
            self.close()


class Database:
    """A Celeriac database file; created on first use."""

    def __init__(self, path: str, synchronous: str = "normal", timeout: float = 10.0,
                 migrations: Sequence[str] = MIGRATIONS) -> None:  # fmt: skip
        self.path = os.path.abspath(path)
        self.timeout = timeout
        self._synchronous = synchronous
        self._migrations = migrations
        self._local = threading.local()
        _databases.add(self)

    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection."""
        return self._session().connection

    def _session(self) -> _Session:
        local = self._local
        try:
            session: _Session = local.session
            if session.generation == _generation:
                return session
            _inherited.append(session)  # never touched again, nor closed
        except AttributeError:
            pass
        with self._translated():
            session = local.session = _Session(self._open(), Bell(self.path + BELL))
        return session

    def watch(self) -> Watch:
        """Return what wakes this thread when anybody has committed."""
        session = self._session()
        if session.watch is None:
            session.watch = Watch(self.path + BELL)
        return session.watch

    def write(self, work: Callable[[sqlite3.Connection], Work], quiet: bool = False) -> Work:
        """Do the work in one write transaction; wait while others write, up to the time-out.

        Whoever watches is woken, unless it is `quiet`: of no interest to them.
        """
        deadline = time.monotonic() + self.timeout
        with self._translated():
            while not self._begin(deadline):
                time.sleep(_pause())
            return self._finish(work, quiet)

    async def awrite(self, work: Callable[[sqlite3.Connection], Work], quiet: bool = False) -> Work:
        """Do as `write`, letting the event loop run while others write."""
        deadline = time.monotonic() + self.timeout
        with self._translated():
            while not self._begin(deadline):
                await asyncio.sleep(_pause())
            return self._finish(work, quiet)

    def insert(self, statement: str, row: Sequence[Any]) -> bool:
        """Write one row in a transaction of its own: the shortest way to a commit.

        False: nothing was written; a constraint or the statement's own condition forbids it, or the database is busy.
        """
        session = self._session()
        try:
            if session.connection.execute(statement, row).rowcount != 1:
                return False
        except sqlite3.Error:  # the long way tells
            return False
        session.bell.ring()
        return True

    def read(self, work: Callable[[sqlite3.Connection], Work]) -> Work:
        """Do the work outside a transaction; it must only read."""
        deadline = time.monotonic() + self.timeout
        with self._translated():
            while True:
                try:
                    return work(self.connection())
                except sqlite3.OperationalError as error:  # another process recovers the log of one that was killed
                    if not _busy(error) or time.monotonic() > deadline:
                        raise
                time.sleep(_pause())

    def close(self) -> None:
        """Close this thread's connection."""
        session: _Session | None = getattr(self._local, "session", None)
        if session is not None and session.pid == os.getpid():
            del self._local.session
            session.close()

    def close_before_fork(self) -> None:
        """Close this thread's connection, unless somebody is waiting on it or in the middle of a transaction."""
        session: _Session | None = getattr(self._local, "session", None)
        if session is None or session.pid != os.getpid() or session.connection.in_transaction:
            return
        if session.watch is None or not session.watch.busy:
            self.close()

    # --- Transactions ---------------------------------------------------------------------------------

    def _begin(self, deadline: float) -> bool:
        try:
            self.connection().execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not _busy(error):
                raise
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"The database {self.path} was locked by other processes for {self.timeout:g} s. Find the one "
                    f"that holds a transaction open (`fuser {self.path}`), or raise `broker_publish_timeout`."
                ) from error
            return False
        return True

    def _finish(self, work: Callable[[sqlite3.Connection], Work], quiet: bool) -> Work:
        session = self._session()
        connection = session.connection
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if not quiet:
            session.bell.ring()
        return result

    # --- Opening --------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        with _proved_lock:
            if self.path not in _proved:
                self._refuse_foreign_file()
                _proved.add(self.path)
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            deadline = time.monotonic() + self.timeout
            while not self._prepare(connection, deadline):
                time.sleep(_pause())
        except BaseException:
            connection.close()
            raise
        return connection

    def _refuse_foreign_file(self) -> None:
        """Look at the file's own bytes, before SQLite could change any.

        Only ever before this process has its first connection: closing a file drops the POSIX locks that the process
        has on it, SQLite's too, and another process would then delete the log under its open connections.
        """
        deadline = time.monotonic() + CREATION_SECONDS
        while True:
            try:
                with Path(self.path).open("rb") as file:
                    header = file.read(72)
            except FileNotFoundError:
                return
            except OSError as error:
                raise BrokerMisconfigured(f"The database {self.path} cannot be read: {error}. "
                                          "Check the path and its permissions.") from error  # fmt: skip
            if not header or header[68:72] == APPLICATION_ID.to_bytes(4, "big"):
                return
            if not header.startswith(HEADER) or time.monotonic() > deadline:
                raise self._foreign()
            time.sleep(_pause())  # another process may be creating it just now

    def _prepare(self, connection: sqlite3.Connection, deadline: float) -> bool:
        """Create or upgrade the schema, and set the connection up. False: busy, to be tried again."""
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a file that is not there yet
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            if self._version(connection) < len(self._migrations):
                self._migrate(connection)
            if self._version(connection) > len(self._migrations):
                raise BrokerError(f"The database {self.path} was made by a newer Celeriac. "
                                  "Upgrade this one: pip install -U celeriac.")  # fmt: skip
            connection.execute("PRAGMA journal_mode = wal")
            connection.execute("SELECT count(*) FROM leases").fetchone()  # makes the log file exist
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            # Busy in disguise: SQLite looks whether its idea of the schema is old, cannot for another's lock on a file
            # that is just being created, and believes the old idea.
            half_way = "no such table" in str(error)
            if (_busy(error) or half_way) and time.monotonic() < deadline:
                return False
            raise
        return True

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN EXCLUSIVE")
        version = self._version(connection)
        if version >= len(self._migrations):  # another process was faster
            connection.execute("ROLLBACK")
            return
        if version == 0 and connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
            raise self._foreign()
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for migration in self._migrations[version:]:
            for statement in _statements(migration):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(self._migrations)}")
        connection.execute("COMMIT")

    def _version(self, connection: sqlite3.Connection) -> int:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return version

    def _foreign(self) -> ForeignDatabase:
        return ForeignDatabase(f"{self.path} is not a Celeriac database; it was left untouched. "
                               "Name another file: broker_url='sqlite:///path/to/new.db'.")  # fmt: skip

    # --- Errors ---------------------------------------------------------------------------------------

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: sqlite3.Error) -> Exception:
        code = _primary_code(error)
        if code == sqlite3.SQLITE_FULL:
            return BrokerUnavailable(f"No room for the database {self.path}: the disk is full. Nothing was stored; "
                                     "make room and call again.")  # fmt: skip
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return ForeignDatabase(f"The database {self.path} is damaged ({error}). It was left as it is; restore "
                                   "a copy, or recover what can be with `sqlite3 FILE .recover`.")  # fmt: skip
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
            kind = BrokerUnavailable if code == sqlite3.SQLITE_IOERR else BrokerMisconfigured
            return kind(f"The database {self.path} cannot be opened or written: {error}. Check that its "
                                     "folder exists and may be written by this user.")  # fmt: skip
        if code == sqlite3.SQLITE_BUSY:
            return BrokerUnavailable(f"The database {self.path} is locked by another process.")
        return BrokerError(f"SQLite: {error} ({self.path})")


def database(path: str, synchronous: str = "normal", timeout: float = 10.0) -> Database:
    """Return the one `Database` of this process for a path, so that broker and backend share it."""
    path = os.path.realpath(path)
    with _registry_lock:
        if path not in _registry:
            _registry[path] = Database(path, synchronous, timeout)
        return _registry[path]


_registry: dict[str, Database] = {}
_registry_lock = threading.Lock()
_inherited: list[_Session] = []
"""Connections that a fork copied. SQLite forbids to use or close them in the child, so they are kept from both."""
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_proved: set[str] = set()  # paths of files that are ours; a fork's child knows them too
_proved_lock = threading.Lock()
_generation = 0  # how many forks lie between this process and the one that imported this


def _before_fork() -> None:
    # A child inherits SQLite's belief that this process has the file locked, but not the locks. The next call
    # opens the connection again, on either side.
    for known in list(_databases):
        known.close_before_fork()


def _after_fork() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _busy(error: sqlite3.Error) -> bool:
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _pause() -> float:
    """Return how long to leave a busy database alone: short and uneven, so that waiting processes take turns."""
    return random.uniform(0.0003, 0.003)  # noqa: S311 - not a secret


def _statements(script: str) -> Iterator[str]:
    """Split a script into its statements. `executescript` would commit first, and lose the transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def path_of(url: str) -> str:
    """Return the file that a URL names: `sqlite:///relative.db`, `sqlite:////absolute.db`."""
    path = url.partition("://")[2].removeprefix("/").partition("?")[0]
    if not path or path == ":memory:":
        raise ImproperlyConfigured(f"{url!r} names no file: write sqlite:///path/to/celeriac.db (or memory://).")
    return path
