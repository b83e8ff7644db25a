"""Operations: what front ends look at and change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

from celeriac.brokers.sqlite.operations import HOLDER, SQLiteOperations
from celeriac.brokers.sqlite.rows import Found as Row
from celeriac.brokers.sqlite.rows import find, insert, remove
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.sqlite.schema import ACTIVE, DEAD
from celeriac.drivers.zmq.frames import FRAME_BYTES
from celeriac.drivers.zmq.parcels import Parcel, parcel_of, parcel_of_outcome
from celeriac.drivers.zmq.verbs import Found, Removed
from celeriac.hub.database import HubDatabase, finish
from celeriac.hub.parts.leases import found_of, published
from celeriac.hub.turn import Turn
from celeriac.model.clock import Clock
from celeriac.ports.operations import QueueCounts

__all__ = ["Operations"]

FEW: Final = 8  # messages; more are read together if these are small
WORKERS: Final = "SELECT CAST(info AS BLOB), renewed_at, expires_at FROM leases WHERE expires_at > ?"


class Operations:
    """The verbs `operations.*`."""

    def __init__(self, turn: Turn, database: HubDatabase, clock: Clock) -> None:
        self._turn = turn
        self._database = database
        self._clock = clock
        self._operations = SQLiteOperations(database, clock)

    def queues(self) -> list[QueueCounts]:
        """Count the messages of all queues."""
        return finish(self._operations.queues())

    def peek(self, queue: str, limit: int, offset: int) -> list[Found]:
        """Return ready messages."""
        peek = self._operations.peek
        return _page(lambda most, start: map(found_of, finish(peek(queue, most, start))), limit, offset)

    def heads(self, queue: str) -> list[Found]:
        """Return those that come next in their lane and priority."""
        return list(map(found_of, finish(self._operations.heads(queue))))

    def scheduled(self, queue: str | None, limit: int, offset: int) -> list[Found]:
        """Return scheduled messages."""
        scheduled = self._operations.scheduled
        return _page(lambda most, start: map(found_of, finish(scheduled(queue, most, start))), limit, offset)

    def find(self, ids: list[str]) -> list[Found]:
        """Return messages by their ids, with their states."""
        found = finish(self._operations.find(ids))
        return [found_of(message, state=state) for state, message in found.values()]

    def holder(self, id: str) -> list[tuple[bytes, float, float, int]]:
        """Return the worker that holds a message: its info, its lease's times, and the deliveries of the message."""

        def work(connection: Connection) -> list[tuple[bytes, float, float, int]]:
            found = find(connection, id)
            if found is None or found.state != ACTIVE:
                return []
            return connection.execute(HOLDER, (found.line, found.rank, found.seq)).fetchall()

        return self._database.read(work)

    def revoked(self, ids: list[str]) -> list[str]:
        """Return which of these are revoked."""
        return list(finish(self._operations.revoked(ids)))

    def waiting(self, queue: str, limit: int) -> list[Found]:
        """Return waiting messages, with their keys."""
        return [found_of(one.message, key=one.key) for one in finish(self._operations.waiting(queue, limit))]

    def remove(self, queue: str, removals: list[Removed]) -> list[bool]:
        """Delete waiting messages; store what is said of their ends."""
        now = self._clock.now()
        for one in removals:
            one.key = tuple(one.key)
            one.outcome = None if one.outcome is None else parcel_of_outcome(one.outcome)
            one.follow_ups = published(one.follow_ups, now)
        return finish(self._operations.remove(queue, cast(Any, removals)))

    def rewrite(self, changes: dict[str, tuple[bytes, bytes]], states: list[str]) -> int:
        """Write messages in some states anew, unless they have changed meanwhile; return how many there were."""

        def work(connection: Connection) -> int:
            found = [one for id in changes if (one := find(connection, id)) is not None and one.state in states]
            same = [one for one in found if cast(Parcel, one.message).data == changes[one.message.id][0]]
            return self._replace(connection, same, [changes[one.message.id][1] for one in same])

        return self._database.write(work)

    def _replace(self, connection: Connection, found: Sequence[Row], values: Sequence[bytes]) -> int:
        for one in found:
            remove(connection, one)
        insert(connection, cast(Any, [parcel_of(value) for value in values]), self._clock.now())
        return len(found)

    def pause(self, queue: str) -> None:
        """Stop all receiving from a queue."""
        finish(self._operations.pause(queue))

    def resume(self, queue: str) -> None:
        """End a pause."""
        finish(self._operations.resume(queue))
        self._turn.look_everywhere()

    def dead(self, queue: str | None, limit: int, offset: int) -> list[Found]:
        """Return dead letters."""

        def read(most: int, start: int) -> Iterable[Found]:
            letters = finish(self._operations.dead(queue, most, start))
            return [found_of(one.message, reason=one.reason, at=one.at) for one in letters]

        return _page(read, limit, offset)

    def resend(self, values: dict[str, bytes]) -> int:
        """Return dead letters to their queues, as these new messages."""

        def work(connection: Connection) -> int:
            letters = [one for id in values if (one := find(connection, id)) is not None and one.state == DEAD]
            # Their failures were recorded as final, and would otherwise be their results.
            connection.executemany("DELETE FROM outcomes WHERE id = ?", [(one.message.id,) for one in letters])
            return self._replace(connection, letters, [values[one.message.id] for one in letters])

        return self._database.write(work)

    def drop(self, ids: list[str]) -> int:
        """Delete dead letters."""
        return finish(self._operations.drop(ids))

    def workers(self) -> list[tuple[bytes, float, float]]:
        """Return the infos of workers, and when each renewed its lease and loses it."""
        return self._database.read(lambda connection: connection.execute(WORKERS, (self._clock.now(),)).fetchall())


def _page(read: Callable[[int, int], Iterable[Found]], limit: int, offset: int) -> list[Found]:
    """Return what `read` finds, by limit and offset: of much a part, of at least `FRAME_BYTES`."""
    found: list[Found] = []
    size, step = 0, FEW
    while len(found) < limit and size < FRAME_BYTES:
        most = min(step, limit - len(found))
        part = list(read(most, offset + len(found)))
        found += part
        size += sum(len(one.data) for one in part)
        if len(part) < most:
            break
        step *= 4
    return found
