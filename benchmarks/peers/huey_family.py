"""Base class of the Huey contenders on SQLite."""

from __future__ import annotations

import sys
from collections.abc import Callable
from sqlite3 import Connection, connect
from typing import Any

from huey import SqliteHuey  # type: ignore[import-untyped]

from benchmarks.peers.base import FOLDER, Peer

__all__ = ["HueyPeer", "noop"]

DATABASE = FOLDER / "huey.db"
POLL_SECONDS = 0.001


def noop(number: int) -> int:
    return number


class HueyPeer(Peer):
    """Huey; the module that creates it assigns its instance to `huey`."""

    module = "huey"
    packages = ("huey",)
    _reader: Connection | None = None

    def __init__(self, place: str, durability: str, **storage: Any) -> None:
        self.huey = SqliteHuey(filename=str(DATABASE), **storage)
        self.settings = (
            f"SQLite, WAL, {durability}; at most once; results kept; consumer: processes, no periodic tasks, no health "
            f"check, quiet, polls every {POLL_SECONDS * 1000:g} ms as do waiting callers; it has no bulk call"
        )
        self._place = place
        self._noop: Callable[[int], Any] = self.huey.task()(noop)

    def send(self, count: int) -> None:
        for number in range(count):
            self._noop(number)

    def roundtrip(self, timeout: float) -> Any:
        return self._noop(1).get(blocking=True, timeout=timeout, backoff=1.0, max_delay=POLL_SECONDS)

    def completed(self) -> int:
        if self._reader is None:
            self._reader = connect(DATABASE)
        # Rows are never deleted here, and this is cheaper than counting them.
        count: int = self._reader.execute("SELECT coalesce(max(rowid), 0) FROM kv").fetchone()[0]
        return count

    def worker(self, children: int, tuned: bool) -> list[str]:
        command = [sys.executable, "-m", "huey.bin.huey_consumer", f"{self._place}.huey", "-k", "process",
                   "-w", str(children), "-q"]  # fmt: skip
        poll = str(POLL_SECONDS)
        return [*command, "-n", "-C", "-d", poll, "-m", poll, "-b", "1"] if tuned else command
