"""Which lines a lease receives from, and in which order.

A lease with a few queues looks into each of their lines. A lease with many queues asks which lines have messages: that
costs one step in the table `ready` for each such line, and none for empty ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import Final

from celeriac.drivers.sqlite.opening import Connection
from celeriac.ports.broker import Slots

__all__ = ["Lines", "learn"]

FEW_QUEUES: Final = 8  # up to so many, each line is looked into
MANY_READY: Final = 64  # if so many lines have messages, the next few queues are looked into first
NEAR: Final = 32  # so many

FIRST = "SELECT 1 FROM ready WHERE line = ? LIMIT 1"
READY = """
    WITH RECURSIVE found (line) AS (
        SELECT min(line) FROM ready
        UNION ALL SELECT (SELECT min(line) FROM ready WHERE line > found.line) FROM found WHERE found.line IS NOT NULL
    )
    SELECT line FROM found WHERE line IS NOT NULL LIMIT ?
"""


def learn(connection: Connection) -> None:
    """Remember the lines that were committed since the last call."""
    connection.news = False
    query = "SELECT line, queue, lane FROM lines WHERE line > ? ORDER BY line"
    for line, queue, lane in connection.execute(query, (connection.newest_line,)):
        if isinstance(queue, str) and isinstance(lane, str):  # else the file is damaged
            connection.lines[queue, lane] = line
            connection.lane_of[line] = (queue, lane)
        connection.newest_line = line


class Lines:
    """The lines of a lease: those of its queues that are not paused, in lanes with free slots."""

    def __init__(self) -> None:
        self._queues: list[str] = []
        self._positions: dict[str, int] = {}

    def of(self, queues: Sequence[str]) -> Lines:
        """Return these lines, after setting the queues."""
        if self._queues != list(queues):
            self._queues = list(queues)
            self._positions = {queue: position for position, queue in enumerate(queues)}
        return self

    def any_ready(self, connection: Connection, slots: Slots, fresh: set[int]) -> bool:
        """Return whether a line has a message, or is among the lines of fresh messages."""
        if len(self._queues) <= FEW_QUEUES:
            return any(
                line in fresh or connection.execute(FIRST, (line,)).fetchone() is not None
                for line, _ in self._each(connection, slots, 0)
            )
        paused = _paused(connection)
        with closing(connection.execute(READY, (-1,))) as ready:
            return any(
                self._is_open(*_lane_of(connection, line), slots, paused)
                for line in chain(fresh, (line for (line,) in ready))
            )

    def in_turn(self, connection: Connection, slots: Slots, turn: int) -> Iterator[tuple[int, str]]:
        """Yield lines and their lanes, beginning with another queue for each `turn`; a line may come twice.

        Lines without messages may be among them if there are few queues, or if many lines have messages.
        """
        turn %= len(self._queues)
        if len(self._queues) <= FEW_QUEUES:
            yield from self._each(connection, slots, turn)
            return
        ready = connection.execute(READY, (MANY_READY,)).fetchall()
        if len(ready) == MANY_READY:
            yield from islice(self._each(connection, slots, turn), NEAR)  # these usually fill the slots
            ready = connection.execute(READY, (-1,)).fetchall()
        paused, found = _paused(connection), []
        for (line,) in ready:
            queue, lane = _lane_of(connection, line)
            if self._is_open(queue, lane, slots, paused):
                found.append(((self._positions[queue] - turn) % len(self._queues), line, lane))
        for _, line, lane in sorted(found):
            yield line, lane

    def _each(self, connection: Connection, slots: Slots, turn: int) -> Iterator[tuple[int, str]]:
        paused = _paused(connection)
        lines, learned = connection.lines, False
        for queue in chain(self._queues[turn:], self._queues[:turn]):
            for lane, free in slots.items():
                if not free or queue in paused:
                    continue
                if not learned and (queue, lane) not in lines:
                    learn(connection)
                    learned = True
                line = lines.get((queue, lane))
                if line is not None:
                    yield line, lane

    def _is_open(self, queue: str, lane: str, slots: Slots, paused: set[str]) -> bool:
        return queue in self._positions and slots.get(lane, 0) > 0 and queue not in paused


def _paused(connection: Connection) -> set[str]:
    return {queue for (queue,) in connection.execute("SELECT queue FROM pauses")}


def _lane_of(connection: Connection, line: int) -> tuple[str, str]:
    if line not in connection.lane_of:
        learn(connection)
    return connection.lane_of.get(line, ("", ""))  # no such line: the file is damaged
