"""Messages as rows: how they are written, found and moved. Used by the broker, its leases and its operations."""

from __future__ import annotations

import logging
import sqlite3
import struct
from binascii import unhexlify
from collections.abc import Sequence
from itertools import repeat
from typing import Any, NamedTuple

from celeriac.drivers.sqlite.bulk_insert import Insert
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.sqlite.schema import FRESH, KEPT, READY, SCHEDULED, STATES, TABLES
from celeriac.model.codec import Codec
from celeriac.model.gate import Unreadable
from celeriac.model.message import HIGHEST_PRIORITY, Message, new_id

__all__ = [
    "DUE",
    "INSERT_ONE",
    "LINE_UP",
    "USUAL_RANK",
    "Found",
    "find",
    "insert",
    "insert_one",
    "line_up",
    "new_row",
    "number_of",
    "queue_of",
    "remove",
    "seq_of",
    "seqs_of",
    "wake",
    "wake_due",
    "write",
]

_DUE = ("WHERE (line, rank, seq) IN (SELECT line, rank, seq FROM scheduled WHERE due_at <= ? "
        "ORDER BY due_at, line, rank, seq LIMIT ?)")  # fmt: skip
WAKE_DUE = f"INSERT OR IGNORE INTO ready ({KEPT}) SELECT {KEPT} FROM scheduled {_DUE}"  # noqa: S608 - constants
TAKE_DUE_AWAY = f"DELETE FROM scheduled {_DUE}"  # noqa: S608
EPOCH = 1_735_689_600_000  # milliseconds; the beginning of 2025

NewRow = tuple[int, int, int, bytes]
"""Line, rank and seq (the key), and the encoded message."""

_HERE = "line = ?1 AND rank = ?2 AND seq = ?3"
INSERT = Insert("INTO ready (line, rank, seq, message)", 4)
INSERT_SCHEDULED = Insert(f"INTO scheduled ({KEPT}, due_at)", 7)
INSERT_READY = Insert(f"INTO ready ({KEPT})", 6)
INSERT_ONE, INSERT_FRESH = (
    f"INSERT INTO {table} (line, rank, seq, message) SELECT ?1, ?2, ?3, ?4 WHERE "  # noqa: S608 - constants
    + " AND ".join(f"NOT EXISTS (SELECT 1 FROM {other} WHERE {_HERE})" for other in TABLES if other != table)  # noqa: S608
    for table in (READY, FRESH)
)
USUAL_RANK = HIGHEST_PRIORITY - Message(id="", task="").priority
LINE_UP = 10_000
"""Fresh messages that are moved in one transaction: others wait for the write lock meanwhile."""
DUE = 2_000
"""Due messages that are moved at once: each costs more than a fresh one."""

_BETWEEN = "line = ?1 AND rank = ?2 AND seq BETWEEN ?3 AND ?4"
ANY_BETWEEN = " UNION ALL ".join(f"SELECT 1 FROM {state} WHERE {_BETWEEN}" for state in TABLES) + " LIMIT 1"  # noqa: S608
SAME_KEY = " UNION ALL ".join(f"SELECT 1 FROM {state} WHERE {_HERE}" for state in TABLES) + " LIMIT 1"  # noqa: S608

RANKS = "ranks (rank) AS (VALUES " + ", ".join(f"({rank})" for rank in range(HIGHEST_PRIORITY + 1)) + ")"
BY_SEQ = f"WITH {RANKS} SELECT '{FRESH}', line, rank, seq, message FROM {FRESH} WHERE seq = ?1" + "".join(  # noqa: S608
    f" UNION ALL SELECT '{state}', line, rank, seq, message "  # noqa: S608
    f"FROM lines CROSS JOIN ranks CROSS JOIN {state} USING (line, rank) WHERE seq = ?1"
    for state in STATES
)
BY_NAME = " UNION ALL ".join(
    f"SELECT '{state}', line, rank, seq, message FROM {state} WHERE name = ?1"  # noqa: S608
    for state in STATES
)


def number_of(connection: Connection, queue: str, lane: str) -> int:
    """Return the number of a line; create a new line inside the caller's write transaction."""
    key = (queue, lane)
    if key not in connection.lines:
        connection.execute("INSERT OR IGNORE INTO lines (queue, lane) VALUES (?, ?)", key)
        found = connection.execute("SELECT line FROM lines WHERE queue = ? AND lane = ?", key).fetchone()
        connection.news = True  # it is not known before the commit: the transaction may still be rolled back
        return int(found[0])
    return connection.lines[key]


def queue_of(connection: Connection, line: int) -> str:
    """Return the queue of a line; where the file is damaged and there is no such line, `default`."""
    if line in connection.lane_of:
        return connection.lane_of[line][0]
    query = "SELECT CAST(queue AS TEXT) FROM lines WHERE line = ?"
    found = connection.execute(query, (line,)).fetchone()  # not committed yet
    return (found[0] if found is not None else "") or "default"


def seq_of(id: str) -> int | None:
    """Return the `seq` that an id made by Celeriac holds: 41 bits of milliseconds, 22 of a counter. None for others."""
    if len(id) != 36 or id[14] != "7" or id[8:24:5] != "----":
        return None
    try:
        bits = int.from_bytes(unhexlify(id.replace("-", "")))
    except ValueError:
        return None
    seq = _seq(bits >> 64, bits & 0xFFFF_FFFF_FFFF_FFFF)
    return seq if seq >> 63 == 0 else None


def seqs_of(ids: Sequence[str]) -> list[int | None]:
    """Return `seq_of` of each id; for ids made by Celeriac, in less than half the time."""
    text, count = "".join(ids), len(ids)
    if set(map(len, ids)) == {36} and text[14::36] == "7" * count and _dashed(text, count):
        try:
            bits = unhexlify(text.replace("-", ""))
        except ValueError:
            bits = b""
        if bits and all(bits[byte::16] == bits[byte : byte + 1] * count for byte in range(8)):
            # The ids were made together: their milliseconds and the high bits of the counter are the same.
            base = _seq(int.from_bytes(bits[:8]), 0)
            seqs = [base | low & 0x3FFF for (low,) in _LOWS(bits)]
        else:
            seqs = [_seq(high, low) for high, low in _HALVES(bits)] or [-1]
        if min(seqs) >= 0 and max(seqs) >> 63 == 0:
            return list(seqs)
    return [seq_of(id) for id in ids]


_HALVES = struct.Struct(">QQ").iter_unpack  # of an id's 128 bits
_LOWS = struct.Struct(">8xH6x").iter_unpack  # the low bits of the counter


def _dashed(text: str, count: int) -> bool:
    return all(text[start::36] == "-" * count for start in (8, 13, 18, 23)) and text.count("-") == 4 * count


def _seq(high: int, low: int) -> int:
    """Return the `seq` of an id's halves: 48 bits of milliseconds, 4, 12 of the counter; 2, 14 of the counter, 48."""
    return (high >> 16) - EPOCH << 22 | high << 14 & 0x3F_C000 | low >> 48 & 0x3FFF


def new_row(message: Message, line: int, now: float, codec: Codec) -> NewRow | None:
    """Return the row of a message that is ready and whose id holds a `seq`; None for all others."""
    seq = None if _is_scheduled(message, now) else seq_of(message.id)
    return None if seq is None else (line, HIGHEST_PRIORITY - message.priority, seq, codec.encode(message))


def insert_one(row: NewRow) -> str:
    """Return the statement that writes a new row. If its key is taken, the statement writes none, or fails."""
    return INSERT_FRESH if row[1] == USUAL_RANK else INSERT_ONE


def line_up(connection: sqlite3.Connection) -> None:
    """Move fresh messages to their lines, the oldest first, inside the caller's write transaction."""
    bound = connection.execute("SELECT seq FROM fresh ORDER BY seq LIMIT 1 OFFSET ?", (LINE_UP,)).fetchone()
    where, up_to = ("", ()) if bound is None else ("WHERE seq < ?", bound)
    moved = f"INSERT INTO ready (line, rank, seq, message) SELECT line, rank, seq, message FROM fresh {where}"  # noqa: S608
    if connection.execute(moved, up_to).rowcount:
        connection.execute(f"DELETE FROM fresh {where}", up_to)  # noqa: S608 - constants


def insert(connection: Connection, messages: Sequence[Message], now: float) -> None:
    """Write messages that are not there already, inside the caller's write transaction."""
    together: dict[tuple[str, int, int], dict[int, Message]] = {}
    apart: list[Message] = []
    before: tuple[Any, ...] | None = None  # the kind of the message before: most are the same
    group: dict[int, Message] = {}
    for message, seq in zip(messages, seqs_of([message.id for message in messages]), strict=True):
        kind = (message.queue, message.lane, message.priority, message.due_at)
        if kind != before:
            before = kind
            line = number_of(connection, message.queue, message.lane)
            state = SCHEDULED if _is_scheduled(message, now) else READY
            group = together.setdefault((state, line, HIGHEST_PRIORITY - message.priority), {})
        if seq is None or group.setdefault(seq, message) is not message:
            apart.append(message)
    for (state, line, rank), group in together.items():
        # New ids: their keys are hardly ever taken, so that one query for all of them is enough.
        if group and connection.execute(ANY_BETWEEN, (line, rank, min(group), max(group))).fetchone() is not None:
            apart += group.values()
        elif state == READY:
            messages_ = map(connection.codec.encode, group.values())
            INSERT.write(connection, list(zip(repeat(line), repeat(rank), group, messages_)))
        else:
            encode = connection.codec.encode
            rows = [(line, rank, seq, None, 0, encode(message), message.due_at) for seq, message in group.items()]
            INSERT_SCHEDULED.write(connection, rows)
    for message in apart:
        if find(connection, message.id) is None:
            write(connection, message, now)


def write(connection: Connection, message: Message, now: float, *, age: int | None = None, deliveries: int = 0) -> None:
    """Write a message that is not there. Its `seq` is `age`, or that of its id, or a new one if the key is taken."""
    line, rank = number_of(connection, message.queue, message.lane), HIGHEST_PRIORITY - message.priority
    own = seq_of(message.id)
    seq = own if age is None else age
    while seq is None or connection.execute(SAME_KEY, (line, rank, seq)).fetchone() is not None:
        seq = seq_of(new_id())
    values = (line, rank, seq, None if seq == own else message.id, deliveries, connection.codec.encode(message))
    try:
        if _is_scheduled(message, now):
            INSERT_SCHEDULED.write(connection, [(*values, message.due_at)])
        else:
            INSERT_READY.write(connection, [values])
    except sqlite3.IntegrityError:  # two messages with one id: something else than Celeriac has written one of them
        log.error("The message %s returns to the queue %s, where there is another one with its id; it is dropped",
                  message.id, message.queue)  # fmt: skip

log = logging.getLogger("celeriac.sqlite")


def _is_scheduled(message: Message, now: float) -> bool:
    return message.due_at is not None and message.due_at > now


class Found(NamedTuple):
    """A message that was found, and its row."""

    table: str
    line: int
    rank: int
    seq: int
    message: Message

    @property
    def state(self) -> str:
        """The state of the message."""
        return READY if self.table == FRESH else self.table


def find(connection: Connection, id: str) -> Found | None:
    """Return the message with this id, in whatever state; None if there is none."""
    for query, value in ((BY_SEQ, seq_of(id)), (BY_NAME, id)):
        for table, line, rank, seq, raw in connection.execute(query, (value,)) if value is not None else ():
            try:
                message = connection.codec.decode(raw, queue_of(connection, line))
            except Unreadable:
                continue  # the lease that receives it makes it a dead letter
            if message.id == id:  # other ids may hold the same `seq`
                return Found(table, line, rank, seq, message)
    return None


def remove(connection: sqlite3.Connection, found: Found) -> None:
    """Delete the row of a message."""
    connection.execute(f"DELETE FROM {found.table} WHERE {_HERE}", (found.line, found.rank, found.seq))  # noqa: S608


def wake(connection: sqlite3.Connection, found: Found) -> None:
    """Make a scheduled message ready, whether it is due or not."""
    where = (found.line, found.rank, found.seq)
    connection.execute(f"INSERT OR IGNORE INTO ready ({KEPT}) SELECT {KEPT} FROM scheduled WHERE {_HERE}", where)  # noqa: S608
    remove(connection, found)


def wake_due(connection: sqlite3.Connection, now: float) -> bool:
    """Make due messages ready, the soonest first; return whether there may be more than are moved at once."""
    if connection.execute("SELECT 1 FROM scheduled WHERE due_at <= ? LIMIT 1", (now,)).fetchone() is None:
        return False
    connection.execute(WAKE_DUE, (now, DUE))
    return connection.execute(TAKE_DUE_AWAY, (now, DUE)).rowcount == DUE
