"""Signed paths of status URLs: `/s/{id}.{expiry}.{signature}`.

`AsyncResult.status_url` makes them, and the HTTP API checks them. Whoever has one may look at that one task until the
expiry, without a token. The signature is an HMAC-SHA256 with the setting `web_secret`.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from typing import Final, NamedTuple
from urllib.parse import quote

__all__ = ["Ticket", "open_ticket", "signed_path"]

CONTEXTS: Final = {True: b"celeriac status and result\0", False: b"celeriac status\0"}


class Ticket(NamedTuple):
    """What a signed path allows."""

    id: str
    expires_at: int  # seconds since the epoch
    result: bool  # whether the task's return value may be seen


def signed_path(secret: str, id: str, expires_at: int, result: bool) -> str:
    """Return the path for a task.

    >>> signed_path("s" * 32, "0197a1b2", 1800000000, True)
    '/s/0197a1b2.1800000000.9Yc6P3eVjBt6nG0YJrPOIWUSwWwl95DSh4iwXQnmbjg'
    """
    return f"/s/{quote(id, safe='')}.{expires_at}.{_signature(secret, id, expires_at, result)}"


def open_ticket(secret: str, text: str) -> Ticket | None:
    """Return what the last part of such a path allows, or None if it is not signed with this secret."""
    told, _, signature = text.rpartition(".")
    id, _, expiry = told.rpartition(".")
    if not id or not expiry.isdecimal() or not expiry.isascii() or len(expiry) > 15:
        return None
    given = signature.encode(errors="replace")
    for result in (True, False):
        if hmac.compare_digest(given, _signature(secret, id, int(expiry), result).encode()):
            return Ticket(id, int(expiry), result)
    return None


def _signature(secret: str, id: str, expires_at: int, result: bool) -> str:
    text = CONTEXTS[result] + f"{id}.{expires_at}".encode(errors="surrogateescape")
    return urlsafe_b64encode(hmac.digest(secret.encode(), text, "sha256")).rstrip(b"=").decode()
