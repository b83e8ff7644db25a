"""Translates the errors of PyMongo into Celeriac's. Nothing else does.

An outage is a `BackendError`, so that workers keep what they could not store and try again. What the URL's user may not
do is `AccessRefused`, and what the server can never store is `Unstorable`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from bson.errors import BSONError
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from celeriac.drivers.mongodb.address import Address
from celeriac.errors import AccessRefused, BackendError, CeleriacError, Unstorable

__all__ = ["LOGIN", "refused", "translated"]

LOGIN: Final = frozenset({11, 18, 8000})
"""Codes of a user that is unknown, or of a wrong password."""

DUPLICATE: Final = 11000
TOO_LARGE: Final = frozenset({10334, 17280, 17419, 17420})
MISFITS: Final = frozenset({2, 14, 28})  # a field of the stored document has another type than the change demands
RIGHTS: Final = frozenset({13})
NOT_PRIMARY: Final = frozenset({91, 189, 10058, 10107, 11600, 11602, 13435, 13436})
TIMED_OUT: Final = frozenset({50, 64, 262})
UNHEARD: Final = ("No servers found yet", "operation cancelled")  # no connection has had an answer
CODE: Final = re.compile(r"'code': (\d{1,6})\b")  # in the text of an error that ended the search for a server
DETAILS: Final = (" (configured timeouts", ", Timeout:", ", full error:")  # what PyMongo appends to the reason
LONGEST: Final = 500  # characters of a reason


def refused(error: BulkWriteError) -> list[int]:
    """Return the indexes of the writes that failed because their id is taken. Raises the error if others failed too."""
    details: Mapping[str, Any] = error.details
    if details["writeConcernErrors"] or any(item["code"] != DUPLICATE for item in details["writeErrors"]):
        raise error
    return [item["index"] for item in details["writeErrors"]]


def translated(error: PyMongoError | BSONError, address: Address, timeout: float) -> CeleriacError:
    """Return Celeriac's error for one of PyMongo."""
    where = f"MongoDB at {address}"
    if isinstance(error, BSONError):
        return Unstorable(f"{where} cannot store this: {_brief(error)}. Documents have at most 16 MB.")
    code, reason = _reason(error)
    if code in LOGIN:
        return AccessRefused(f"{where} refused the login: the user or the password is wrong, or the user is in another "
                             f"database. Name that with ?authSource=admin ({reason}).")  # fmt: skip
    if code in RIGHTS:
        return AccessRefused(f"{where}: this user may not do that. Grant it the role readWrite on the database "
                             f"{address.database} ({reason}).")  # fmt: skip
    if code in TOO_LARGE:
        return Unstorable(f"{where} cannot store this: {reason}. Documents have at most 16 MB.")
    if code in MISFITS:
        return Unstorable(f"{where} cannot make this change, the document is not as Celeriac writes it: {reason}.")
    if code in NOT_PRIMARY or isinstance(error, NotPrimaryError):
        return BackendError(f"{where} has no primary at the moment ({reason}).")
    unheard = any(word in reason for word in UNHEARD)
    if code in TIMED_OUT or unheard or (error.timeout and not isinstance(error, ServerSelectionTimeoutError)):
        return BackendError(f"{where} did not answer within {timeout:g} s (`broker_publish_timeout`): {reason}.")
    if isinstance(error, AutoReconnect | ConfigurationError):
        return BackendError(f"{where} cannot be reached: {reason}. {_next_step(reason, address)}")
    return BackendError(f"{where} refused a request: {reason}")


def _reason(error: PyMongoError) -> tuple[int | None, str]:
    """Return the server's code of an error, if it has one, and its reason. Values that were sent are not shown."""
    if isinstance(error, BulkWriteError):
        details: Mapping[str, Any] = error.details or {}
        first = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ()), {}][0]
        return first.get("code"), str(first.get("errmsg", "the writes failed"))[:LONGEST]
    if isinstance(error, DuplicateKeyError):
        return error.code, "the id is taken"
    if isinstance(error, OperationFailure):
        return error.code, _brief(error)
    found = CODE.search(str(error)) if isinstance(error, ServerSelectionTimeoutError) else None
    return (int(found[1]) if found else None), _brief(error)


def _brief(error: Exception) -> str:
    text = str(error)
    for detail in DETAILS:
        text = text.partition(detail)[0]
    return text[:LONGEST].rstrip(". ")


def _next_step(reason: str, address: Address) -> str:
    lower = reason.lower()
    if "certificate" in lower:
        return "Name the authority that signed the server's certificate: ?tls=true&tlsCAFile=/path/to/ca.crt"
    if "replica set" in lower or "primary" in lower:
        return "Has the replica set a primary, and is `replicaSet` in the URL its name?"
    return f"Is it running, and is this its port? `mongosh mongodb://{address.hosts.partition(',')[0]}`"
