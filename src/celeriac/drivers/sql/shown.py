"""Columns of outcomes and schedules besides their bytes, for readers of the tables that know SQL alone.

Whoever has such readers gives `Tables` a `Shown` of its own: `celeriac.contrib.django.db` does, for Django's ORM. They
are written with the bytes, by the same statements, and Celeriac never reads them. By default there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sqlalchemy.schema import SchemaItem

    from celeriac.model.outcome import Outcome
    from celeriac.ports.schedules import Entry

__all__ = ["NOTHING", "Shown"]


class Shown:
    """No further columns."""

    def outcome_columns(self, prefix: str) -> list[SchemaItem]:
        """Return the further columns of the table of outcomes, and indexes whose names begin with the prefix."""
        return []

    def schedule_columns(self, prefix: str) -> list[SchemaItem]:
        """Return the same for the table of schedules."""
        return []

    def of_outcome(self, outcome: Outcome, now: float) -> Mapping[str, Any]:
        """Return the values for an outcome that is stored now (seconds since the epoch), by column: of all columns."""
        return {}

    def of_entry(self, entry: Entry) -> Mapping[str, Any]:
        """Return the values for a schedule, by column: of all columns."""
        return {}


NOTHING: Final = Shown()
