"""Celeriac on the embedded SQLite file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from sqlite3 import Connection, connect

from benchmarks.peers.base import FOLDER, Peer
from celeriac import Celeriac
from celeriac.model.clock import Clock

DATABASE = FOLDER / "celeriac.db"

app = Celeriac("benchmark", broker_url=f"sqlite:///{DATABASE}")


@app.task(name="noop")
def noop(number: int) -> int:
    return number


class CeleriacSQLite(Peer):
    """With default settings."""

    title = "Celeriac"
    module = "celeriac"
    packages: Sequence[str] = ("celeriac", "uvloop")
    settings = "defaults: SQLite, WAL, synchronous=normal; at least once; results kept"
    _reader: Connection | None = None

    def send(self, count: int) -> None:
        for number in range(count):
            noop.delay(number)

    def send_many(self, count: int) -> None:
        noop.delay_many([(number,) for number in range(count)])

    def send_later(self, count: int, seconds: float) -> int:
        # Different due times, as with `apply_async(eta=…)`: batches of 1,000, one millisecond apart.
        for first in range(0, count, 1000):
            calls = [(number,) for number in range(first, min(count, first + 1000))]
            noop.delay_many(calls, countdown=seconds + first / 1e6)
        with closing(connect(DATABASE)) as connection:
            statement = "SELECT count(*) FROM scheduled WHERE due_at > ?"
            held: int = connection.execute(statement, (Clock().now(),)).fetchone()[0]
            return held

    def roundtrip(self, timeout: float) -> int:
        return noop.delay(1).get(timeout)

    def completed(self) -> int:
        if self._reader is None:
            app.broker.complete(app.broker.operations().queues())  # creates the file
            self._reader = connect(DATABASE)
        count: int = self._reader.execute("SELECT count(*) FROM outcomes").fetchone()[0]
        return count

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "celeriac.cli", "-A", "benchmarks.peers.celeriac_sqlite", "worker",
                "-c", str(children)]  # fmt: skip


PEER = CeleriacSQLite()
