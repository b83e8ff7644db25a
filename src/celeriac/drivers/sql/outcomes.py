"""Outcomes in tables. A final one stays until it expires: the first that is stored is never replaced.

Each function works in the caller's transaction, with statements that are sorted by key, so that two transactions do not
wait for each other. Two ways lead to the same end:

- PostgreSQL and SQLite: one `INSERT … ON CONFLICT (id) DO UPDATE … WHERE is_final = 0 OR stored_at < … RETURNING id`
  for a batch. On PostgreSQL its values are arrays: drivers take longer to put a thousand values into a statement than
  it takes to run;
- all others: `SELECT … FOR UPDATE`, then `UPDATE` (on the same condition) for what is there and `INSERT` for what is
  not. If another transaction stores one of them in between, the insertion fails, and the transaction is repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import IntegrityError

from celeriac.drivers.sql.keys import NEVER, micros
from celeriac.drivers.sql.schema import Tables

__all__ = ["PAGE", "OutcomeTable", "Row", "pages"]

PAGE: Final = 500  # rows of a statement; Oracle accepts 1,000 values after IN
PAGE_BYTES: Final = 8_000_000  # of outcomes in one statement, unless the server accepts less
EXPIRED_ROWS: Final = 1_000  # deleted in one transaction
ARRAYS: Final[Mapping[str, Any]] = {"id": Text(), "state": Text(), "is_final": SmallInteger(), "outcome": LargeBinary()}
REPLACED: Final = ("state", "is_final", "stored_at", "outcome")  # columns

Item = TypeVar("Item")


class Row(NamedTuple):
    """An outcome to be stored."""

    key: str
    state: str
    is_final: bool
    data: bytes
    shown: Mapping[str, Any] = {}  # further columns: `shown.py`


class OutcomeTable:
    """The statements on outcomes, which expire after so many seconds. `generic`: never the short way; for tests."""

    def __init__(self, tables: Tables, expires: float | None, generic: bool = False) -> None:
        table = self._table = tables.outcomes
        self._expires = None if expires is None else micros(expires)
        known = {"id", *REPLACED}
        self._shown = [column for column in table.columns if column.name not in known]
        replaced = (*REPLACED, *(column.name for column in self._shown))
        self._upserts: dict[str, Any] = {}
        if not generic:
            self._upserts = {"postgresql": _upsert_arrays(table, self._shown, replaced, self._expires),
                             "sqlite": _upsert(sqlite_insert(table), table, replaced, self._expires)}  # fmt: skip
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in replaced}
        self._insert = insert(table)
        free = _free(table, values["stored_at"], self._expires)
        self._update = update(table).where(table.c.id == bindparam("key"), free).values(values)
        in_keys = table.c.id.in_(bindparam("keys", expanding=True))
        self._lock = (
            select(table.c.id, table.c.is_final, table.c.stored_at).where(in_keys).order_by(table.c.id)
            .with_for_update()
        )  # fmt: skip
        self._look = select(table.c.id, table.c.outcome).where(in_keys, table.c.stored_at >= bindparam("since"))
        self._look_final = self._look.where(table.c.is_final == 1)
        self._recent = select(table.c.id, table.c.outcome).where(table.c.stored_at >= bindparam("since"))
        self._delete = delete(table).where(in_keys)
        self._expired = (
            select(table.c.id).where(table.c.stored_at < bindparam("until")).order_by(table.c.stored_at)
            .limit(EXPIRED_ROWS)
        )  # fmt: skip
        self._delete_expired = self._delete.where(table.c.stored_at < bindparam("until"))

    def store(self, connection: Connection, rows: Sequence[Row], now: int, largest: int) -> list[bool]:
        """Store outcomes, as one after the other. Return False for each of a task that had a final one."""
        done = [True] * len(rows)
        chosen: dict[str, Row] = {}
        for place, row in enumerate(rows):
            before = chosen.get(row.key)
            if before is not None and before.is_final:
                done[place] = False
            else:
                chosen[row.key] = row
        refused: set[str] = set()
        for page in _by_size([chosen[key] for key in sorted(chosen)], largest):
            refused |= self._store_page(connection, page, now)
        return [stored and row.key not in refused for stored, row in zip(done, rows, strict=True)]

    def _store_page(self, connection: Connection, page: list[Row], now: int) -> set[str]:
        """Store outcomes of as many tasks. Return the keys of those that had a final one."""
        dialect = connection.dialect
        upsert = self._upserts.get(dialect.name)
        if upsert is None or not dialect.insert_executemany_returning:
            return self._store_generic(connection, _values(page, now))
        given = _arrays(page, now) if dialect.name == "postgresql" else _values(page, now)
        return {row.key for row in page} - set(connection.execute(upsert, given).scalars().all())

    def _store_generic(self, connection: Connection, values: list[dict[str, Any]]) -> set[str]:
        keys = [value["id"] for value in values]
        since = NEVER if self._expires is None else values[0]["stored_at"] - self._expires
        found = {
            row.id: row.is_final and row.stored_at >= since for row in connection.execute(self._lock, {"keys": keys})
        }
        changed = [
            {"key" if name == "id" else f"new_{name}": part for name, part in value.items()}
            for value in values
            if value["id"] in found and not found[value["id"]]
        ]
        if changed:
            self._replace(connection, changed)
        if missing := [value for value in values if value["id"] not in found]:
            connection.execute(self._insert, missing)
        return {key for key, is_final in found.items() if is_final}

    def _replace(self, connection: Connection, changed: list[dict[str, Any]]) -> None:
        """Replace outcomes that may be. Raises `IntegrityError` if one has become final in between."""
        if connection.dialect.supports_sane_multi_rowcount:
            count = connection.execute(self._update, changed).rowcount
        else:
            count = sum(connection.execute(self._update, one).rowcount for one in changed)
        if count != len(changed):
            raise IntegrityError("UPDATE", None, ValueError("another transaction has stored one of these outcomes"))

    def look(self, connection: Connection, keys: Iterable[str], final: bool, since: int) -> list[tuple[str, bytes]]:
        """Return keys and outcomes, as far as they are known and were stored since an instant. Only reads."""
        statement = self._look_final if final else self._look
        found: list[tuple[str, bytes]] = []
        for page in pages(list(keys), PAGE):
            found += [(key, data) for key, data in connection.execute(statement, {"keys": page, "since": since})]
        return found

    def recent(self, connection: Connection, limit: int, offset: int, state: str | None,
               since: int) -> list[tuple[str, bytes]]:  # fmt: skip
        """Return the keys and outcomes that were stored last. Only reads."""
        table = self._table
        statement = self._recent.order_by(table.c.stored_at.desc()).limit(limit).offset(offset)
        if state is not None:
            statement = statement.where(table.c.state == state)
        return [(key, data) for key, data in connection.execute(statement, {"since": since})]

    def forget(self, connection: Connection, keys: Iterable[str]) -> None:
        """Delete outcomes."""
        for page in pages(sorted(keys), PAGE):
            connection.execute(self._delete, {"keys": page})

    def delete_expired(self, connection: Connection, until: int) -> bool:
        """Delete outcomes that were stored before an instant. Return whether there may be more."""
        keys = sorted(connection.execute(self._expired, {"until": until}).scalars())
        for page in pages(keys, PAGE):
            connection.execute(self._delete_expired, {"keys": page, "until": until})
        return len(keys) == EXPIRED_ROWS


def _values(page: list[Row], now: int) -> list[dict[str, Any]]:
    return [{"id": row.key, "state": row.state, "is_final": int(row.is_final), "stored_at": now, "outcome": row.data,
             **row.shown} for row in page]  # fmt: skip


def _arrays(page: list[Row], now: int) -> dict[str, Any]:
    keys, states, are_final, data, shown = map(list, zip(*page, strict=True))
    given = {name: [columns[name] for columns in shown] for name in shown[0]}
    finals = [int(is_final) for is_final in are_final]
    return given | {"id": keys, "state": states, "is_final": finals, "stored_at": now, "outcome": data}


def _free(table: Table, now: Any, expires: int | None) -> Any:
    """Return the condition that a row may be replaced at an instant: it is not final, or has expired."""
    if expires is None:
        return table.c.is_final == 0
    # No parameter: with one in its condition, SQLAlchemy would execute an upsert for each row.
    return or_(table.c.is_final == 0, table.c.stored_at < now - literal_column(str(expires)))


def _upsert(statement: Any, table: Table, replaced: Iterable[str], expires: int | None) -> Any:
    """Return an insertion that also replaces what may be, and returns the keys of those that it has stored."""
    new = {name: statement.excluded[name] for name in replaced}
    where = _free(table, statement.excluded.stored_at, expires)
    return statement.on_conflict_do_update(index_elements=[table.c.id], set_=new, where=where).returning(table.c.id)


def _upsert_arrays(table: Table, shown: Iterable[Column[Any]], replaced: Iterable[str], expires: int | None) -> Any:
    """Return the same for PostgreSQL: its values are arrays, one for each column, but for the instant."""
    kinds = {**ARRAYS, **{column.name: column.type for column in shown}}
    arrays: list[Any] = [cast(bindparam(name), ARRAY(kind)) for name, kind in kinds.items()]
    new = func.unnest(*arrays).table_valued(*kinds).render_derived("new")
    rows = select(*(new.c[name] for name in kinds), cast(bindparam("stored_at"), BigInteger))
    return _upsert(postgresql_insert(table).from_select([*kinds, "stored_at"], rows), table, replaced, expires)


def pages(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yield the items in lists of this size."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _by_size(rows: list[Row], largest: int) -> Iterator[list[Row]]:
    """Yield rows in lists for one statement each, of so many bytes. In MySQL's text, each byte may become two."""
    page: list[Row] = []
    room = budget = min(PAGE_BYTES, largest // 2)
    for row in rows:
        need = len(row.data) + 300
        if page and (need > room or len(page) == PAGE):
            yield page
            page, room = [], budget
        page.append(row)
        room -= need
    if page:
        yield page


