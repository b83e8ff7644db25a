"""The tables, for every dialect of SQLAlchemy, and the statements that make them.

| table | a row |
|---|---|
| `…outcomes` | the latest outcome of a task; a final one stays |
| `…trees`, `…workflows` | a workflow: what never changes, and its counter of tasks that have not ended |
| `…joins` | how many members of a group have not ended |
| `…pending` | a node that has ended, and whose consequences have not been carried out |
| `…schedules` | a schedule |
| `…claims` | a key that a process has taken for some time |
| `…version` | the version of all these tables, in a single row |

Keys are ASCII (keys.py), instants are microseconds since the epoch, except those of schedules: milliseconds.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    insert,
    update,
)
from sqlalchemy.dialects.mysql import LONGBLOB, VARBINARY
from sqlalchemy.dialects.oracle import RAW
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from celeriac.drivers.sql.keys import KEY_LENGTH, STATE_LENGTH

__all__ = ["MYSQL", "VERSION", "Tables"]

VERSION: Final = 2  # 1 had neither claims nor the history

MYSQL: Final = ("mysql", "mariadb")
LONGEST_NAME: Final = 4000  # bytes of a schedule's name
OPTIONS: Final[dict[str, Any]] = {
    f"{name}_{option}": value
    for name in MYSQL
    for option, value in {"engine": "InnoDB", "charset": "ascii", "collate": "ascii_bin"}.items()
}


def _key(name: str, **options: Any) -> Column[str]:
    kind = String(KEY_LENGTH).with_variant(String(KEY_LENGTH, collation="C"), "postgresql")
    return Column(name, kind, nullable=False, **options)


def _blob(name: str, nullable: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary().with_variant(LONGBLOB(), *MYSQL), nullable=nullable)


def _number(name: str, **options: Any) -> Column[int]:
    return Column(name, Integer, nullable=False, autoincrement=False, **options)


def _instant(name: str, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


class Tables:
    """The tables of one schema, with names that begin with a prefix."""

    def __init__(self, schema: str | None, prefix: str) -> None:
        self.metadata = MetaData(schema=schema)
        self._prefix = prefix
        self.outcomes = self._table(
            "outcomes",
            _key("id", primary_key=True),
            Column("state", String(STATE_LENGTH), nullable=False),
            Column("is_final", SmallInteger, nullable=False),
            _instant("stored_at"),
            _blob("outcome"),
            Index(f"{prefix}outcomes_stored_at", "stored_at"),
        )
        self.trees = self._table("trees", _key("id", primary_key=True), _blob("tree"))
        self.workflows = self._table(
            "workflows",
            _key("id", primary_key=True),
            _number("remaining"),
            _instant("touched_at"),
            Index(f"{prefix}workflows_touched_at", "touched_at"),
        )
        self.joins = self._table(
            "joins", _key("workflow", primary_key=True), _number("node", primary_key=True), _number("missing")
        )
        self.pending = self._table(
            "pending",
            _key("workflow", primary_key=True),
            _number("node", primary_key=True),
            _instant("free_at"),  # until when a worker has claimed it; 0: none has
            _blob("workflow_id", nullable=True),  # in UTF-8, if the key is a hash of it
            Index(f"{prefix}pending_free_at", "free_at"),
        )
        name = LargeBinary().with_variant(VARBINARY(LONGEST_NAME), *MYSQL).with_variant(RAW(2000), "oracle")
        self.schedules = self._table(
            "schedules",
            _key("id", primary_key=True),
            Column("name", name, nullable=False),  # in UTF-8, by which pages are sorted
            Column("revision", BigInteger, nullable=False),
            _instant("next_at", nullable=True),
            _blob("entry"),
            Index(f"{prefix}schedules_next_at", "next_at"),
        )
        self.claims = self._table(
            "claims",
            _key("id", primary_key=True),
            _blob("value"),
            _instant("expires_at"),
            Index(f"{prefix}claims_expires_at", "expires_at"),
        )
        self.version = self._table("version", _number("id", primary_key=True), _number("version"))

    def _table(self, name: str, *parts: Any) -> Table:
        made: Table = Table(f"{self._prefix}{name}", self.metadata, *parts, **OPTIONS)
        return made

    def new_version(self) -> Any:
        """Return the statement that says that all tables have been made."""
        return insert(self.version).values(id=1, version=VERSION)

    def upgrade(self, version: int) -> Any:
        """Return the statement that says that what this version of the tables lacked has been made."""
        return update(self.version).where(self.version.c.version == version).values(version=VERSION)

    def text(self, dialect: Dialect) -> str:
        """Return the statements that make all tables, in a dialect."""
        statements: list[Any] = []
        for table in self.metadata.sorted_tables:
            statements.append(CreateTable(table))
            statements += [CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name))]
        texts = [str(statement.compile(dialect=dialect)).strip() for statement in statements]
        last = self.new_version().compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        return "".join(f"{text};\n\n" for text in [*texts, str(last)]).strip()
