"""One SQLite file, for every thread and process that uses it.

Write transactions are short, start with `BEGIN IMMEDIATE`, and are tried again while another process writes: blocking
in `write`, without blocking the event loop in `awrite`. Readers never wait (WAL). Each thread has a connection
of its own, made anew after a fork, and when the file was deleted or replaced: SQLite itself would go on with a file
that nobody else can find. What was committed to such a file is done again in the one that is at the path now.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from celeriac.drivers.sqlite.error_translation import busy, translated
from celeriac.drivers.sqlite.notify import Bell, Watch
from celeriac.drivers.sqlite.opening import Connection, Opener, pause
from celeriac.drivers.sqlite.schema import MIGRATIONS
from celeriac.errors import BrokerUnavailable

__all__ = ["Database", "Session", "database"]

log = logging.getLogger("celeriac.sqlite")

Work = TypeVar("Work")

SURE_SECONDS: Final = 0.001  # so long a file that was in place is taken to be so by `insert`, for a look takes 2 µs
BELL: Final = "-bell"  # the file beside the database whose watchers are woken by a commit; see `watch`


class Session:
    """What one thread has open; closed with the thread."""

    def __init__(self, connection: Connection, bell: Bell) -> None:
        self.connection = connection
        self.bell = bell
        self.watch: Watch | None = None
        self.pid = os.getpid()
        self.generation = _generation
        self._sure_until = 0.0  # monotonic

    def insert(self, statement: str, row: Sequence[Any]) -> bool:
        """Write one row in a transaction of its own: the shortest way to a commit.

        False: nothing was written; a constraint or the statement's own condition forbids it, or the database is busy,
        or away.
        """
        try:
            if self.connection.execute(statement, row).rowcount != 1:
                return False
        except sqlite3.Error:  # the long way tells
            return False
        self.bell.ring()
        now = time.monotonic()
        if now >= self._sure_until:
            if not self.connection.in_place():
                return False
            self._sure_until = now + SURE_SECONDS
        return True

    def close(self) -> None:
        """Let go of it all."""
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
        self._opener = Opener(self.path, synchronous, timeout, migrations)
        self._local = threading.local()
        _databases.add(self)

    def connection(self) -> Connection:
        """Return this thread's connection."""
        return self.session().connection

    def session(self) -> Session:
        """Return what this thread has open."""
        local = self._local
        try:
            session: Session = local.session
            if session.generation == _generation:
                return session
            _inherited.append(session)  # never touched again, nor closed
        except AttributeError:
            pass
        with translated(self.path):
            session = local.session = self._open()
        return session

    def watch(self) -> Watch:
        """Return what wakes this thread when anybody has committed."""
        session = self.session()
        if session.watch is None:
            session.watch = Watch(self.path + BELL)
        return session.watch

    def write(self, work: Callable[[Connection], Work], quiet: bool = False) -> Work:
        """Do the work in one write transaction; wait while others write, up to the time-out.

        Whoever watches is woken, unless it is `quiet`: of no interest to them.
        """
        deadline = time.monotonic() + self.timeout
        with translated(self.path):
            while True:
                while not self._begin(deadline):
                    time.sleep(pause())
                result = self._finish(work, quiet)
                if self._in_place():
                    return result

    async def awrite(self, work: Callable[[Connection], Work], quiet: bool = False) -> Work:
        """Do as `write`, letting the event loop run while others write."""
        deadline = time.monotonic() + self.timeout
        with translated(self.path):
            while True:
                while not self._begin(deadline):
                    await asyncio.sleep(pause())
                result = self._finish(work, quiet)
                if self._in_place():
                    return result

    def read(self, work: Callable[[Connection], Work]) -> Work:
        """Do the work outside a transaction; it must only read."""
        deadline = time.monotonic() + self.timeout
        with translated(self.path):
            self._in_place()
            while True:
                try:
                    return work(self.connection())
                except sqlite3.OperationalError as error:  # another process recovers the log of one that was killed
                    if not busy(error) or time.monotonic() > deadline:
                        raise
                time.sleep(pause())

    def close(self) -> None:
        """Close this thread's connection."""
        session: Session | None = getattr(self._local, "session", None)
        if session is not None and session.pid == os.getpid():
            del self._local.session
            session.close()

    def close_before_fork(self) -> None:
        """Close this thread's connection, unless somebody is waiting on it or in the middle of a transaction."""
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.pid != os.getpid() or session.connection.in_transaction:
            return
        if session.watch is None or not session.watch.busy:
            self.close()

    # --- Files ----------------------------------------------------------------------------------------

    def _open(self) -> Session:
        return Session(self._opener.open(), Bell(self.path + BELL))

    def _in_place(self) -> bool:
        """Say whether this thread has the file open that is at the path; if not, it has from now on."""
        old = self.session()
        if old.connection.in_place():
            return True
        what = "replaced" if os.path.exists(self.path) else "deleted"
        new = self._open()
        new.watch, old.watch = old.watch, None
        if new.watch is not None:
            new.watch.move(self.path + BELL)
        self._local.session = new
        old.close()  # SQLite sees that the file has moved, and leaves the log at the path alone
        log.warning("The database %s was %s while it was in use, and what it held is gone. %s", self.path, what,
                    "The one that is there now is used." if what == "replaced" else "A new one was made.")  # fmt: skip
        return False

    # --- Transactions ---------------------------------------------------------------------------------

    def _begin(self, deadline: float) -> bool:
        try:
            self.connection().execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not busy(error):
                raise
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"The database {self.path} was locked by other processes for {self.timeout:g} s. Find the one "
                    f"that holds a transaction open (`fuser {self.path}`), or raise `broker_publish_timeout`."
                ) from error
            return False
        return True

    def _finish(self, work: Callable[[Connection], Work], quiet: bool) -> Work:
        session = self.session()
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


def database(path: str, synchronous: str = "normal", timeout: float = 10.0) -> Database:
    """Return the one `Database` of this process for a path and settings, so that an app's broker and backend share it.

    Apps whose settings differ have each their own, on the same file.
    """
    key = (os.path.realpath(path), synchronous, timeout)
    with _registry_lock:
        if key not in _registry:
            _registry[key] = Database(*key)
        return _registry[key]


_registry: dict[tuple[str, str, float], Database] = {}
_registry_lock = threading.Lock()
_inherited: list[Session] = []
"""Connections that a fork copied. SQLite forbids to use or close them in the child, so they are kept from both."""
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
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
