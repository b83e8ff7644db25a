"""The port of backends and brokers whose tables an administrator may make: `celeriac backend schema` prints them."""

from __future__ import annotations

from abc import ABC, abstractmethod

__all__ = ["SchemaOwner"]


class SchemaOwner(ABC):
    """Has tables. They are made on first use, by users who may."""

    @abstractmethod
    def schema(self) -> str:
        """Return the statements that make the tables, in SQL. Does not connect."""
