"""The file of the hub, in which everything of one turn is one transaction.

The adapters call `write`, `awrite` and `read` as they do on any `Database`. Here the first write of a turn begins the
transaction, each write is a savepoint of it, and `commit` ends it. Nothing ever waits in between, so the coroutines of
the adapters run to their ends without an event loop (`finish`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from celeriac.brokers.sqlite.lines import learn
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.error_translation import translated
from celeriac.drivers.sqlite.opening import Connection, pause
from celeriac.errors import BrokerUnavailable, CeleriacError

__all__ = ["HubDatabase", "finish"]

Work = TypeVar("Work")


class HubDatabase(Database):
    """A database whose transactions are the turns of the hub."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_loud = False  # something was written that others wait for
        self._is_lost = False  # SQLite has rolled the turn back by itself
        self.moves = 0  # how often the file was replaced

    def enter(self) -> Connection:
        """Return the connection, in the transaction of this turn."""
        connection = self.connection()
        if not connection.in_transaction:
            with translated(self.path):
                deadline = time.monotonic() + self.timeout
                while not self._begin(deadline):
                    time.sleep(pause())
        return connection

    def write(self, work: Callable[[Connection], Work], quiet: bool = False) -> Work:
        """Do the work in the transaction of this turn; if it fails, undo it alone."""
        connection = self.connection()
        is_first = not connection.in_transaction  # the transaction is its savepoint
        if is_first:
            connection = self.enter()
        self._is_loud = self._is_loud or not quiet
        with translated(self.path):
            if not is_first:
                connection.execute("SAVEPOINT request")
            try:
                result = work(connection)
            except BaseException:
                if not connection.in_transaction:  # the disk is full, perhaps
                    self._is_lost = not is_first
                elif is_first:
                    connection.execute("ROLLBACK")
                    _forget_lines(connection)
                else:
                    connection.execute("ROLLBACK TO request")
                    connection.execute("RELEASE request")
                raise
            if not is_first:
                connection.execute("RELEASE request")
        return result

    async def awrite(self, work: Callable[[Connection], Work], quiet: bool = False) -> Work:
        """Coroutine version of `write`, which never waits."""
        return self.write(work, quiet)

    def read(self, work: Callable[[Connection], Work]) -> Work:
        """Do the work, which only reads. It sees what this turn has written."""
        connection = self.connection()
        if connection.in_transaction:
            with translated(self.path):
                return work(connection)
        return super().read(work)

    def _in_place(self) -> bool:
        is_there = super()._in_place()
        self.moves += not is_there
        return is_there

    def ring(self) -> None:
        """Note that others wait for what was written in this turn."""
        self._is_loud = True

    def commit(self) -> bool:
        """End the turn. Return False if the file was replaced, so that it has to be done again in the new one."""
        session = self.session()
        if self._is_lost:
            raise BrokerUnavailable(f"{self.path} could not be written, and nothing of this turn was. See the log of "
                                    "the hub; call again.")  # fmt: skip
        is_loud, self._is_loud = self._is_loud, False
        if not session.connection.in_transaction:  # nothing was written, and reading looks at the file's place itself
            return True
        with translated(self.path):
            session.connection.execute("COMMIT")
        if session.connection.news:
            learn(session.connection)
        if is_loud:
            session.bell.ring()
        return self._in_place()

    def roll_back(self) -> None:
        """Undo the turn."""
        self._is_loud = self._is_lost = False
        try:
            connection = self.connection()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except (sqlite3.Error, CeleriacError):  # it cannot be used any more
            self.close()
            return
        _forget_lines(connection)


def _forget_lines(connection: Connection) -> None:
    """Forget what is known of the file: what was made in a transaction that was rolled back is not there."""
    connection.lines.clear()
    connection.lane_of.clear()
    connection.newest_line, connection.has_history = 0, False


def finish(work: Coroutine[Any, Any, Work]) -> Work:
    """Return the result of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        result: Work = end.value
        return result
    work.close()
    raise RuntimeError(f"{work!r} waits, and the hub cannot")
