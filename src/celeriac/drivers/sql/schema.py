"""The tables, for every dialect of SQLAlchemy, and the statements that make them.

| table | a row |
|---|---|
| `…outcomes` | the latest outcome of a task; a final one stays |
| `…trees`, `…workflows` | a workflow: what never changes, and its counter of tasks that have not ended |
| `…joins` | how many members of a group have not ended |
| `…pending` | a node that has ended, and whose consequences have not been carried out |
| `…schedules` | a schedule |
| `…claims` | a key that a process has taken for some time |
| `…delays` | a message that waits until it is due |
| `…history_…` | the history: `history_tables.py` |
| `…version` | the version of all these tables, in a single row |

Keys are ASCII (keys.py), instants are microseconds since the epoch, except those of schedules: milliseconds.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    insert,
    update,
)
from sqlalchemy.dialects.mysql import VARBINARY
from sqlalchemy.dialects.oracle import RAW
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable

from celeriac.drivers.sql.columns import MYSQL, blob, number, text, whole
from celeriac.drivers.sql.history_tables import HistoryTables
from celeriac.drivers.sql.keys import STATE_LENGTH
from celeriac.drivers.sql.shown import NOTHING, Shown

__all__ = ["VERSION", "Tables"]

VERSION: Final = 3  # 1 had neither claims nor the history, 2 no delays

LONGEST_NAME: Final = 4000  # bytes of a schedule's name
OPTIONS: Final[dict[str, Any]] = {
    f"{name}_{option}": value
    for name in MYSQL
    for option, value in {"engine": "InnoDB", "charset": "ascii", "collate": "ascii_bin"}.items()
}


class Tables:
    """The tables of one schema, with names that begin with a prefix."""

    def __init__(self, schema: str | None, prefix: str, shown: Shown = NOTHING) -> None:
        self.metadata = MetaData(schema=schema)
        self.shown = shown
        self._prefix = prefix
        self.outcomes = self._table(
            "outcomes",
            text("id", primary_key=True),
            Column("state", String(STATE_LENGTH), nullable=False),
            Column("is_final", SmallInteger, nullable=False),
            whole("stored_at"),
            blob("outcome"),
            *shown.outcome_columns(prefix),
            Index(f"{prefix}outcomes_stored_at", "stored_at"),
        )
        self.trees = self._table("trees", text("id", primary_key=True), blob("tree"))
        self.workflows = self._table(
            "workflows",
            text("id", primary_key=True),
            number("remaining"),
            whole("touched_at"),
            Index(f"{prefix}workflows_touched_at", "touched_at"),
        )
        self.joins = self._table(
            "joins", text("workflow", primary_key=True), number("node", primary_key=True), number("missing")
        )
        self.pending = self._table(
            "pending",
            text("workflow", primary_key=True),
            number("node", primary_key=True),
            whole("free_at"),  # until when a worker has claimed it; 0: none has
            blob("workflow_id", nullable=True),  # in UTF-8, if the key is a hash of it
            Index(f"{prefix}pending_free_at", "free_at"),
        )
        name = LargeBinary().with_variant(VARBINARY(LONGEST_NAME), *MYSQL).with_variant(RAW(2000), "oracle")
        self.schedules = self._table(
            "schedules",
            text("id", primary_key=True),
            Column("name", name, nullable=False),  # in UTF-8, by which pages are sorted
            Column("revision", BigInteger, nullable=False),
            whole("next_at", nullable=True),
            blob("entry"),
            *shown.schedule_columns(prefix),
            Index(f"{prefix}schedules_next_at", "next_at"),
        )
        self.claims = self._table(
            "claims",
            text("id", primary_key=True),
            blob("value"),
            whole("expires_at"),
            Index(f"{prefix}claims_expires_at", "expires_at"),
        )
        self.delays = self._table(
            "delays",
            text("id", primary_key=True),
            text("queue"),
            whole("due_at"),
            whole("free_at"),  # until when somebody holds it …
            whole("token"),  # … and what proves that; 0: nobody has taken it
            number("takes"),  # how often it was taken; one more if it may have been moved before it was kept
            blob("data"),
            Index(f"{prefix}delays_due_at", "due_at"),
            Index(f"{prefix}delays_queue", "queue", "due_at"),
        )
        self.history = HistoryTables(self._table, prefix)
        self.version = self._table("version", number("id", primary_key=True), number("version"))

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
