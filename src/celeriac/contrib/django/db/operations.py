"""The operation of the migrations: makes the tables, or adds what those of an older version of Celeriac lack.

The definition is that of the backend (`drivers/sql/schema.py`), as `celeriac backend schema` prints it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import router
from django.db.migrations.operations.base import Operation
from sqlalchemy import update
from sqlalchemy.schema import CreateIndex, CreateTable

from celeriac.contrib.django.db.columns import DjangoColumns
from celeriac.contrib.django.db.place import dialect_of
from celeriac.contrib.django.db.values import PREFIX
from celeriac.drivers.sql.schema import VERSION, Tables

__all__ = ["MakeTables"]


class MakeTables(Operation):
    """Makes the tables that are missing, on Django's own connection: in its transaction, where the database has them.

    `version` is that of the tables when the migration was written. An installation that has all migrations before it
    makes the newest tables at once, and those after it find nothing to do.
    """

    reduces_to_sql: ClassVar[bool] = True
    reversible: ClassVar[bool] = True

    def __init__(self, version: int) -> None:
        self.version = version

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change no model."""

    def database_forwards(self, app_label: str, editor: Any, from_state: Any, to_state: Any) -> None:
        """Make what is missing."""
        connection = editor.connection
        if not router.allow_migrate(connection.alias, app_label):
            return
        tables, dialect = _tables(connection.alias)
        with connection.cursor() as cursor:
            there = set() if editor.collect_sql else set(connection.introspection.table_names(cursor))
        for table in tables.metadata.sorted_tables:
            if table.name in there:
                continue
            editor.execute(_text(CreateTable(table), dialect), params=None)
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                editor.execute(_text(CreateIndex(index), dialect), params=None)
        is_new = tables.version.name not in there
        changes = tables.new_version() if is_new else update(tables.version).values(version=VERSION)
        editor.execute(str(changes.compile(dialect=dialect, compile_kwargs={"literal_binds": True})), params=None)

    def database_backwards(self, app_label: str, editor: Any, from_state: Any, to_state: Any) -> None:
        """Drop the tables, with all results and schedules."""
        if not router.allow_migrate(editor.connection.alias, app_label):
            return
        tables, dialect = _tables(editor.connection.alias)
        for table in reversed(tables.metadata.sorted_tables):
            name = dialect.identifier_preparer.format_table(table)
            editor.execute(f"DROP TABLE {name}", params=None)

    def describe(self) -> str:
        """Return what `migrate` says."""
        return "Make the tables of results, workflows, schedules and the history"

    @property
    def migration_name_fragment(self) -> str:
        """The end of the name of a migration."""
        return f"tables_{self.version}"


def _tables(alias: str) -> tuple[Tables, Any]:
    return Tables(None, PREFIX, DjangoColumns(alias)), dialect_of(alias)


def _text(statement: Any, dialect: Any) -> str:
    return str(statement.compile(dialect=dialect)).strip()
