"""Translates the errors of SQLAlchemy and of drivers into Celeriac's. Nothing else does."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from sqlalchemy import exc

from celeriac.drivers.sql.address import Address
from celeriac.errors import AccessRefused, BackendError, BackendUnavailable, CeleriacError, Unstorable
from celeriac.model.masks import masked

__all__ = ["is_conflict", "is_lost", "is_missing_table", "may_be_race", "translated"]


class _Trouble(NamedTuple):
    """What an error means: Celeriac's class of it, and what to do."""

    kind: type[CeleriacError]
    step: str


CONFLICT: Final = _Trouble(BackendUnavailable, "others were changing the same rows for too long; call again")
PASSWORD: Final = _Trouble(AccessRefused, "the user or the password is wrong: correct the URL in the settings")
RIGHTS: Final = _Trouble(
    AccessRefused,
    "this user may not do that. It needs SELECT, INSERT, UPDATE and DELETE on Celeriac's tables; if it may not create "
    "them, have an administrator carry out what `celeriac backend schema` prints",
)
DATABASE: Final = _Trouble(BackendError, "there is no such database: create it, or correct the URL in the settings")
TABLE: Final = _Trouble(BackendError, "Celeriac's tables are missing: see `celeriac backend schema`")
SCHEMA: Final = _Trouble(BackendError, "there is no such schema: create it, or correct `sql_schema`")
READ_ONLY: Final = _Trouble(
    BackendUnavailable, "it accepts no writes, as a standby does. Name the primary server in the URL"
)
FULL: Final = _Trouble(BackendUnavailable, "its disk is full. Nothing was stored; free some disk space")
CROWDED: Final = _Trouble(
    BackendUnavailable, "it has as many connections as it may have. Allow more of them, or close others"
)
AWAY: Final = _Trouble(BackendUnavailable, "it is starting or shutting down")
TOO_LARGE: Final = _Trouble(Unstorable, "the value is too large for it")

TROUBLES: Final = {
    # PostgreSQL: SQLSTATE
    "40001": CONFLICT, "40P01": CONFLICT, "55P03": CONFLICT,
    "28P01": PASSWORD, "28000": PASSWORD, "42501": RIGHTS, "3D000": DATABASE, "42P01": TABLE, "3F000": SCHEMA,
    "25006": READ_ONLY, "53100": FULL, "53300": CROWDED, "57P01": AWAY, "57P02": AWAY, "57P03": AWAY,
    "54000": TOO_LARGE,
    # MySQL and MariaDB
    1213: CONFLICT, 1205: CONFLICT, 1020: CONFLICT,
    1045: PASSWORD, 1698: PASSWORD, 1044: RIGHTS, 1142: RIGHTS, 1143: RIGHTS, 1227: RIGHTS, 1049: DATABASE, 1146: TABLE,
    1290: READ_ONLY, 1792: READ_ONLY, 1836: READ_ONLY, 1021: FULL, 1114: FULL, 1040: CROWDED, 1203: CROWDED,
    1053: AWAY, 1153: TOO_LARGE,
    # Oracle
    "ORA-00060": CONFLICT, "ORA-08177": CONFLICT, "ORA-00054": CONFLICT,
    "ORA-01017": PASSWORD, "ORA-01005": PASSWORD, "ORA-28000": PASSWORD, "ORA-28001": PASSWORD, "ORA-01031": RIGHTS,
    "ORA-01950": RIGHTS, "ORA-01045": RIGHTS, "ORA-12514": DATABASE, "ORA-12505": DATABASE, "DPY-6001": DATABASE,
    "DPY-6003": DATABASE, "ORA-00942": TABLE, "ORA-16000": READ_ONLY, "ORA-01653": FULL, "ORA-01654": FULL,
    "ORA-30036": FULL, "ORA-00018": CROWDED, "ORA-00020": CROWDED, "ORA-12519": CROWDED, "ORA-12516": CROWDED,
    "ORA-01033": AWAY, "ORA-01034": AWAY, "ORA-01089": AWAY,
    # SQLite
    "SQLITE_BUSY": CONFLICT, "SQLITE_LOCKED": CONFLICT, "SQLITE_FULL": FULL, "SQLITE_TOOBIG": TOO_LARGE,
}  # fmt: skip

WORDINGS: Final = (
    (re.compile("password authentication failed|no password supplied|role .* does not exist|no pg_hba.conf entry"),
     PASSWORD),
    (re.compile("database .* does not exist"), DATABASE),
    (re.compile("too many (clients|connections)|remaining connection slots"), CROWDED),
    (re.compile("(starting up|shutting down|recovery mode|not yet accepting connections)"), AWAY),
    (re.compile("readonly database"), _Trouble(BackendError, "the file cannot be written: check its permissions")),
    (re.compile("unable to open database file"), _Trouble(BackendError, "check that its folder exists and that this "
                                                                       "user may write to it")),
    (re.compile("no such table"), TABLE),
)  # fmt: skip
"""Errors that are recognised by their text: PostgreSQL's without SQLSTATE, while connecting, and SQLite's."""


def is_conflict(error: exc.SQLAlchemyError) -> bool:
    """Return whether the transaction failed because of another one, and can be repeated."""
    return _trouble(error) is CONFLICT


def is_lost(error: exc.SQLAlchemyError) -> bool:
    """Return whether the connection was lost, as it is when a server has restarted."""
    return isinstance(error, exc.DBAPIError) and error.connection_invalidated


def is_missing_table(error: exc.SQLAlchemyError) -> bool:
    """Return whether one of the tables does not exist."""
    return _trouble(error) is TABLE


def may_be_race(error: exc.SQLAlchemyError) -> bool:
    """Return whether making a table may have failed because another process was making it."""
    return not is_lost(error) and _trouble(error) in (None, CONFLICT, TABLE)


def translated(error: exc.SQLAlchemyError, address: Address) -> CeleriacError:
    """Return Celeriac's error."""
    if isinstance(error, exc.TimeoutError):
        return BackendUnavailable(f"{address} did not answer: all connections of this process are in use.")
    trouble = _trouble(error)
    original = getattr(error, "orig", None)
    reason = masked(" ".join(str(original if original is not None else error).split()))
    if trouble is not None:
        return trouble.kind(f"{address}: {trouble.step} ({reason}).")
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError) or is_lost(error):
        return BackendUnavailable(f"{address} cannot be reached: {reason}. {address.step()}")
    kind = Unstorable if isinstance(error, exc.DataError) else BackendError
    return kind(f"{address} replied with an error: {reason}")


def _trouble(error: exc.SQLAlchemyError) -> _Trouble | None:
    original = getattr(error, "orig", None)
    for code in _codes(original):
        if code in TROUBLES:
            return TROUBLES[code]
    text = str(original)
    return next((trouble for pattern, trouble in WORDINGS if pattern.search(text)), None)


def _codes(original: Any) -> list[Any]:
    """Return what may be the code of a driver's error: each has another place for it."""
    first = original.args[0] if isinstance(original, BaseException) and original.args else None
    found = [getattr(original, name, None) for name in ("sqlstate", "pgcode", "sqlite_errorname")]
    return [code for code in (*found, getattr(first, "full_code", None), first) if isinstance(code, str | int)]
