"""Opens a SQLite file: refuses one that is not a Celeriac database, creates a new one, upgrades an older one."""

from __future__ import annotations

import os
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from celeriac.drivers.sqlite.error_translation import busy, foreign, taken, unreadable
from celeriac.drivers.sqlite.schema import APPLICATION_ID
from celeriac.errors import BrokerError
from celeriac.model.codec import Codec

if sys.platform != "win32":
    import fcntl

__all__ = ["Connection", "Opener", "pause"]

HEADER: Final = b"SQLite format 3\x00"
CREATION_SECONDS: Final = 0.5  # how long another process may take to create the file
PAGE_BYTES: Final = 2048  # a commit writes all pages that it has changed: small pages make small commits faster
CHECKPOINT_PAGES: Final = 16_000  # SQLite copies the log into the file every 32 MB

PRIVATE: Final = 0o600  # the permissions of a new database
LOGS: Final = ("-wal", "-shm", "-journal")  # SQLite's files beside the database

File = tuple[int, int]
"""Device and inode. No other file has both while this one is open in any process."""


class Connection(sqlite3.Connection):
    """A connection, and what is known about the file that it has open."""

    path = ""
    device, inode = -1, -1
    codec: Codec
    """Encodes and decodes what is stored."""
    lines: dict[tuple[str, str], int]
    """The number of each known line, by queue and lane. Only committed lines are known. A number never changes."""
    lane_of: dict[int, tuple[str, str]]
    """Queue and lane of each known line, by its number."""
    newest_line = 0  # the highest number of a known line
    has_history = False  # the tables of the history (`history.py`) are there
    news = False  # there is a line that is not known: it was created, or looked up

    def in_place(self) -> bool:
        """Return whether the file is still at its path: False if it was deleted or replaced."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return False
        except OSError:  # unknown
            return True
        return found.st_ino == self.inode and found.st_dev == self.device


class Opener:
    """Opens the database file at a path."""

    def __init__(self, path: str, synchronous: str, timeout: float, codec: Codec, migrations: Sequence[str]) -> None:
        self._path = path
        self._synchronous = synchronous
        self._timeout = timeout
        self._codec = codec
        self._migrations = migrations
        self.is_shared = False  # with the tables of the project's own database

    def open(self) -> Connection:
        """Return a new connection for the calling thread."""
        self._check()
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False,
                                     factory=Connection)  # fmt: skip
        try:
            deadline = time.monotonic() + self._timeout
            while not self._prepare(connection, deadline):
                time.sleep(pause())
        except BaseException:
            connection.close()
            raise
        connection.path, connection.codec, connection.lines, connection.lane_of = self._path, self._codec, {}, {}
        connection.text_factory = _text
        file = _file(self._path)
        if file is not None:
            connection.device, connection.inode = file
            with _checked_lock:
                _checked[self._path] = file
        return connection

    # --- Foreign and missing files --------------------------------------------------------------------

    def _check(self) -> None:
        """Refuse a file that is not a Celeriac database, before SQLite can change it; create a missing file.

        A shared file may be open in this process: only SQLite may look into it (see `_refuse_foreign_file`).
        """
        with _checked_lock:
            file = _file(self._path)
            if self.is_shared:
                if file is None:
                    self._create()
                return
            if self._path in _checked and (file is None or _checked[self._path] in (None, file)):
                if file is None:
                    _checked[self._path] = None
                    self._create()
                return
            self._refuse_foreign_file()
            _checked[self._path] = file
            if file is None:
                self._create()

    def _refuse_foreign_file(self) -> None:
        """Raise if the header of the file is not that of a Celeriac database.

        Called only before this process has its first connection to the file: closing a file drops all POSIX locks that
        the process has on it, including SQLite's, and another process would then delete the log of open connections.
        """
        deadline = time.monotonic() + CREATION_SECONDS
        while True:
            try:
                with Path(self._path).open("rb") as file:
                    header = file.read(72)
            except FileNotFoundError:
                return
            except OSError as error:
                raise unreadable(self._path, error) from error
            if not header or header[68:72] == APPLICATION_ID.to_bytes(4, "big"):
                return
            if not header.startswith(HEADER) or time.monotonic() > deadline:
                raise foreign(self._path)
            time.sleep(pause())  # another process may be creating it

    def _create(self) -> None:
        """Create an empty file, and delete the logs of a former file at this path.

        Only its owner may read and write it: whoever can write to it can have any task run. SQLite gives its logs the
        mode of the file, and so does `Bell`.

        Processes that still have the former file open would share these logs, which are found by name. A lock on the
        folder makes sure that no process deletes the logs of a file that another has just created.
        """
        if sys.platform == "win32":  # which does not delete open files
            return
        with suppress(OSError):  # SQLite will raise an error that names the problem
            folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                if not os.path.exists(self._path):
                    for log in LOGS:
                        Path(self._path + log).unlink(missing_ok=True)
                    os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
            finally:
                os.close(folder)

    # --- The schema -----------------------------------------------------------------------------------

    def _prepare(self, connection: Connection, deadline: float) -> bool:
        """Create or upgrade the schema, and configure the connection. Return False if the file is busy: try again."""
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # has an effect on new files only
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            if self._version(connection) < len(self._migrations):
                connection.execute("BEGIN EXCLUSIVE")
                self.upgrade(connection)
                connection.execute("COMMIT")
            self._refuse_newer(connection)
            connection.execute("PRAGMA journal_mode = wal")
            connection.execute("SELECT count(*) FROM leases").fetchone()  # creates the log file
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            # Another process is creating the file: because of its lock, SQLite could not check whether its copy of the
            # schema is current, and used it.
            half_created = "no such table" in str(error)
            if (busy(error) or half_created) and time.monotonic() < deadline:
                return False
            raise
        return True

    def upgrade(self, connection: Connection) -> None:
        """Create or upgrade the schema inside the caller's write transaction."""
        version = self._version(connection)
        self._refuse_newer(connection)
        if version == 0 and not self.is_shared and _tables(connection):
            raise foreign(self._path)
        if version == 0:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for migration in self._migrations[version:]:
            for statement in _statements(migration):
                try:
                    connection.execute(statement)
                except sqlite3.OperationalError as error:
                    if version == 0 and "already exists" in str(error):
                        raise taken(self._path, error) from error
                    raise
        if version < len(self._migrations):
            connection.execute(f"PRAGMA user_version = {len(self._migrations)}")

    def _version(self, connection: Connection) -> int:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if self.is_shared:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if application != APPLICATION_ID and (application or version):
                raise foreign(self._path)  # another program has marked it
        return version

    def _refuse_newer(self, connection: Connection) -> None:
        if self._version(connection) > len(self._migrations):
            raise BrokerError(f"The database {self._path} was created by a newer version of Celeriac. "
                              "Upgrade this installation: pip install -U celeriac.")  # fmt: skip


_text: Final = partial(str, encoding="utf-8", errors="replace")
"""Returns text of the file. Where it is damaged, it need not be UTF-8; sqlite3 would refuse the whole query."""


def pause() -> float:
    """Return the seconds until the next attempt on a busy database: short and random, so that processes take turns."""
    return random.uniform(0.0003, 0.003)  # noqa: S311 - not for cryptography


_checked: dict[str, File | None] = {}
"""The files that have been checked, by path; None while this process creates one. Inherited by forked children."""
_checked_lock = threading.Lock()


def _file(path: str) -> File | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None


def _statements(script: str) -> Iterator[str]:
    """Split a script into its statements. (`executescript` would commit the transaction first.)"""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
