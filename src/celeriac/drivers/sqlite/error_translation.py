"""Translates the errors of SQLite into Celeriac's. Nothing else does."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from types import TracebackType

from celeriac.errors import BrokerError, BrokerMisconfigured, BrokerUnavailable, ForeignDatabase, Unstorable

__all__ = ["busy", "foreign", "taken", "translated", "unreadable"]

TOO_MANY = (errno.EMFILE, errno.ENFILE)
SPACE = 64 * 1024  # bytes that SQLite needs beside a file that nobody has open
UNSTORABLE = (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG)


class translated:  # noqa: N801 - it is used as a function; a generator would take several times as long
    """Translate SQLite's errors in a block that uses this file."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:  # fmt: skip
        if isinstance(error, sqlite3.Error):
            raise _translate(error, self._path) from error


def busy(error: sqlite3.Error) -> bool:
    """Return whether an error is temporary, because another connection holds a lock."""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def foreign(path: str) -> ForeignDatabase:
    """Return the error for a file that is not a Celeriac database."""
    return ForeignDatabase(f"{path} is not a Celeriac database; it was left untouched. "
                           "Name another file: broker_url='sqlite:///path/to/new.db'.")  # fmt: skip


def taken(path: str, error: sqlite3.Error) -> BrokerMisconfigured:
    """Return the error for a shared file that has a table with the name of one of Celeriac's."""
    return BrokerMisconfigured(f"The database {path} cannot hold Celeriac's tables beside the project's: {error}. "
                               "Rename it, or give Celeriac a file of its own: "
                               "broker_url='sqlite:///path/to/celeriac.db'.")  # fmt: skip


def unreadable(path: str, error: OSError) -> BrokerUnavailable:
    """Return the error for a file that cannot be opened or read."""
    if error.errno in TOO_MANY:
        return _too_many_files(path)
    return BrokerMisconfigured(f"The database {path} cannot be read: {error}. Check the path and its permissions.")


def _too_many_files(path: str) -> BrokerUnavailable:
    return BrokerUnavailable(
        f"The database {path} cannot be opened: too many files are open. Raise the limit of this process "
        f"(`ulimit -n`), or find what it leaves open: `ls -l /proc/{os.getpid()}/fd`."
    )


def _may_open_no_file() -> bool:
    """Return whether this process has as many files open as it may: SQLite does not say so."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in TOO_MANY
    return False


def _is_full(path: str) -> bool:
    """Return whether the disk is full: the first process to open a file makes others beside it, and fails otherwise."""
    try:
        return shutil.disk_usage(os.path.dirname(path) or ".").free < SPACE
    except OSError:
        return False


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _translate(error: sqlite3.Error, path: str) -> Exception:
    code = _primary_code(error)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return BrokerUnavailable(f"The database {path} cannot grow: the disk is full. Nothing was stored; "
                                 "free some disk space and call again.")  # fmt: skip
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return ForeignDatabase(f"The database {path} is damaged ({error}). It was left as it is; restore "
                               "a backup, or recover its rows with `sqlite3 FILE .recover`.")  # fmt: skip
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR) and _may_open_no_file():
        return _too_many_files(path)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
        kind = BrokerUnavailable if code == sqlite3.SQLITE_IOERR else BrokerMisconfigured
        return kind(f"The database {path} cannot be opened or written: {error}. Check that its "
                                 "folder exists and that this user may write to it.")  # fmt: skip
    if code == sqlite3.SQLITE_BUSY:
        return BrokerUnavailable(f"The database {path} is locked by another process. Call again later.")
    text = f"SQLite: {error} ({path})"
    return Unstorable(text) if code in UNSTORABLE else BrokerError(text)
