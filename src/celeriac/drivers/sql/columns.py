"""The kinds of columns that the tables are made of, on every dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String
from sqlalchemy.dialects.mysql import LONGBLOB
from sqlalchemy.engine import Dialect

from celeriac.drivers.sql.keys import KEY_LENGTH

__all__ = ["MYSQL", "blob", "number", "text", "whole"]

MYSQL: Final = ("mysql", "mariadb")


class _SQLiteBlob(LargeBinary):
    """SQLite keeps any value in any column: what is not bytes is read as bytes that nothing can decode."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], bytes | None]:
        return _read


def _read(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return value if value is None or isinstance(value, bytes) else repr(value).encode()


def text(name: str, length: int = KEY_LENGTH, **options: Any) -> Column[str]:
    """Return a column of ASCII, which is compared byte by byte."""
    kind = String(length).with_variant(String(length, collation="C"), "postgresql")
    return Column(name, kind, nullable=False, **options)


def blob(name: str, nullable: bool = False) -> Column[bytes]:
    """Return a column of bytes of any length."""
    kind = LargeBinary().with_variant(LONGBLOB(), *MYSQL).with_variant(_SQLiteBlob(), "sqlite")
    return Column(name, kind, nullable=nullable)


def number(name: str, kind: Any = Integer, **options: Any) -> Column[int]:
    """Return a column of numbers that fit in 32 bits."""
    return Column(name, kind, nullable=False, autoincrement=False, **options)


def whole(name: str, nullable: bool = False) -> Column[int]:
    """Return a column of whole numbers, such as instants in microseconds."""
    return Column(name, BigInteger, nullable=nullable)
