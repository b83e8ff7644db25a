"""One SQLite file, for every thread and process that uses it.

Write transactions are short, start with `BEGIN IMMEDIATE`, and are tried again while another process writes: blocking
in `write`, without blocking the event loop in `awrite`. Readers never wait (WAL). Each thread has its own connection.
It is opened again after a fork, and when the file was deleted or replaced, because SQLite itself would go on using the
old file; a transaction that was committed to the old file is then repeated in the new one.

A file that is shared with the project's own database (`share`) is written on the caller's connection, in its
transaction, while the calling thread has one open.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from celeriac.drivers.sqlite.borrowed import OpenTransaction, borrow
from celeriac.drivers.sqlite.error_translation import busy, translated
from celeriac.drivers.sqlite.notify import BELL, Bell, Watch
from celeriac.drivers.sqlite.opening import Connection, Opener, pause
from celeriac.drivers.sqlite.schema import MIGRATIONS
from celeriac.errors import BrokerUnavailable
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.ports.complete import sleep

__all__ = ["Database", "Session", "database"]

log = logging.getLogger("celeriac.sqlite")

Work = TypeVar("Work")

IN_PLACE_SECONDS: Final = 0.001  # how long `insert` relies on a check that the file is in place, which takes 2 µs


class Session:
    """What one thread has open. Closed when the thread ends."""

    def __init__(self, connection: Connection, bell: Bell) -> None:
        self.connection = connection
        self.bell = bell
        self.watch: Watch | None = None
        self.pid = os.getpid()
        self.generation = _generation
        self._in_place_until = 0.0  # monotonic

    def insert(self, statement: str, row: Sequence[Any]) -> bool:
        """Write one row in a transaction of its own, the fastest way. Return whether it is in the file at the path.

        False: a constraint or the statement's own condition forbids the row, the database is busy, or the file was
        deleted or replaced.
        """
        try:
            if self.connection.execute(statement, row).rowcount != 1:
                return False
        except sqlite3.Error:  # the caller's next attempt, `Database.write`, raises it
            return False
        self.bell.ring()
        now = time.monotonic()
        if now >= self._in_place_until:
            if not self.connection.in_place():
                return False
            self._in_place_until = now + IN_PLACE_SECONDS
        return True

    def close(self) -> None:
        """Close everything."""
        if self.watch is not None:
            self.watch.close()
        self.bell.close()
        self.connection.close()

    def __del__(self) -> None:
        if self.pid == os.getpid():
            self.close()


class Database:
    """A Celeriac database file. It is created on first use."""

    def __init__(self, path: str, synchronous: str = "normal", timeout: float = 10.0, codec: Codec = PLAIN_CODEC,
                 migrations: Sequence[str] = MIGRATIONS) -> None:  # fmt: skip
        self.path = os.path.abspath(path)
        self.timeout = timeout
        self.codec = codec
        self._opener = Opener(self.path, synchronous, timeout, codec, migrations)
        self._open_transaction: Callable[[], OpenTransaction | None] | None = None
        self._local = threading.local()
        _databases.add(self)

    def share(self, open_transaction: Callable[[], OpenTransaction | None]) -> None:
        """Allow tables of others in the file, and write inside the transaction that the calling thread has open there.

        `open_transaction` returns that transaction; it is called for each write.
        """
        self._open_transaction = open_transaction
        self._opener.is_shared = True

    @property
    def callers_transaction(self) -> OpenTransaction | None:
        """The transaction of the calling thread that writes are part of; None where there is none."""
        return None if self._open_transaction is None else self._open_transaction()

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
            _inherited.append(session)  # kept, and never used or closed in this process
        except AttributeError:
            pass
        with translated(self.path):
            session = local.session = self._open()
        return session

    def watch(self) -> Watch:
        """Return what wakes this thread when any process has committed."""
        session = self.session()
        if session.watch is None:
            session.watch = Watch(self.path + BELL)
        return session.watch

    def write(self, work: Callable[[Connection], Work], quiet: bool = False) -> Work:
        """Do the work in one write transaction, waiting up to the time-out while others write; return its result.

        Watching processes are woken, unless the change is of no interest to them (`quiet`). `work` may be called again.
        """
        if (theirs := self.callers_transaction) is not None:
            return self._join(theirs, work, quiet)
        deadline = time.monotonic() + self.timeout
        with translated(self.path):
            while True:
                while not self._begin(deadline):
                    time.sleep(pause())
                result = self._finish(work, quiet)
                if self._in_place():
                    return result

    async def awrite(self, work: Callable[[Connection], Work], quiet: bool = False) -> Work:
        """Coroutine version of `write`: the event loop runs while others write."""
        if (theirs := self.callers_transaction) is not None:
            return self._join(theirs, work, quiet)
        deadline = time.monotonic() + self.timeout
        with translated(self.path):
            while True:
                while not self._begin(deadline):
                    await sleep(pause())
                result = self._finish(work, quiet)
                if self._in_place():
                    return result

    def read(self, work: Callable[[Connection], Work]) -> Work:
        """Do the work outside a transaction; return its result. It must only read, and may be called again."""
        deadline = time.monotonic() + self.timeout
        with translated(self.path):
            self._in_place()
            while True:
                try:
                    return work(self.connection())
                except sqlite3.OperationalError as error:  # another process is recovering the log after a crash
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
        """Close this thread's connection, unless a coroutine waits on it or it is in a transaction."""
        session: Session | None = getattr(self._local, "session", None)
        if session is None or session.pid != os.getpid() or session.connection.in_transaction:
            return
        if session.watch is None or not session.watch.busy:
            self.close()

    # --- Files ----------------------------------------------------------------------------------------

    def _open(self) -> Session:
        return Session(self._opener.open(), Bell(self.path + BELL))

    def _in_place(self) -> bool:
        """Return whether this thread has the file at the path open; if not, open that one."""
        old = self.session()
        if old.connection.in_place():
            return True
        what = "replaced" if os.path.exists(self.path) else "deleted"
        new = self._open()
        new.watch, old.watch = old.watch, None
        if new.watch is not None:
            new.watch.move(self.path + BELL)
        self._local.session = new
        old.close()  # SQLite notices that the file has moved, and leaves the log at the path alone
        log.warning("The database %s was %s while it was in use, and its contents are lost. %s", self.path, what,
                    "The new file is used now." if what == "replaced" else "A new one was created.")  # fmt: skip
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
                    f"The database {self.path} was locked by other processes for {self.timeout:g} s. Find the process "
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

    def _join(self, theirs: OpenTransaction, work: Callable[[Connection], Work], quiet: bool) -> Work:
        """Do the work inside a caller's transaction; if it fails, undo it alone. Wakes others after the commit."""
        connection = borrow(theirs.connection, self.codec)
        with translated(self.path):
            connection.execute("SAVEPOINT celeriac")
            try:
                self._opener.upgrade(connection)
                result = work(connection)
            except BaseException:
                if connection.in_transaction:  # some errors make SQLite roll all of it back
                    connection.execute("ROLLBACK TO celeriac")
                    connection.execute("RELEASE celeriac")
                raise
            connection.execute("RELEASE celeriac")
        if not quiet:
            theirs.on_commit(self._ring)
        return result

    def _ring(self) -> None:
        """Wake watching processes, without a connection of this thread's. Never raises."""
        bell = Bell(self.path + BELL)
        bell.ring()
        bell.close()


def database(path: str, synchronous: str = "normal", timeout: float = 10.0, codec: Codec = PLAIN_CODEC) -> Database:
    """Return the process's one `Database` for these arguments, so that an app's broker and backend share it."""
    key = (os.path.realpath(path), synchronous, timeout, codec)
    with _registry_lock:
        if key not in _registry:
            _registry[key] = Database(*key)
        return _registry[key]


_registry: dict[tuple[str, str, float, Codec], Database] = {}
_registry_lock = threading.Lock()
_inherited: list[Session] = []
"""Sessions inherited by a forked child. SQLite forbids using or closing their connections there."""
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_generation = 0  # how many forks there were between the process that imported this module and this one


def _before_fork() -> None:
    # A child inherits SQLite's state, which says that the file is locked, but not the locks. The next call opens a new
    # connection, in the parent as in the child.
    for known in list(_databases):
        known.close_before_fork()


def _after_fork() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
