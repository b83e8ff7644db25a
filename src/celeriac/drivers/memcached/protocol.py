"""Memcached's text protocol: requests as bytes, and the functions that read their replies from a `Stream`.

Requests are sent many at a time (docs/decisions/0035-memcached-client.md); the server replies in their order. All
functions raise `BackendError`, as `Peer.ask` does, and if the server refuses a request.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from celeriac.drivers.peer import Garbled, Peer, Stream

__all__ = ["delete_all", "expiry", "get_all", "store_all"]

DAYS_30: Final = 30 * 86400  # seconds; a number above this is an instant for the server
LAST: Final = 2**31 - 1  # the latest instant that it knows
STORED: Final[Mapping[bytes, bool | None]] = {
    b"STORED": True, b"NOT_STORED": False, b"SERVER_ERROR object too large for cache": None,
}  # fmt: skip
DELETED: Final[Mapping[bytes, bool | None]] = {b"DELETED": True, b"NOT_FOUND": False}
SIZE: Final = re.compile(rb"[0-9]{1,10}")  # `-I` allows up to 1 GB
ERRORS: Final = (b"ERROR", b"SERVER_ERROR", b"CLIENT_ERROR")


def expiry(seconds: float | None) -> int:
    """Return how the protocol says that a value expires after so many seconds (None: never, and so is past 2038).

    >>> expiry(0.5), expiry(60), expiry(None)
    (1, 60, 0)
    """
    if seconds is None:
        return 0
    whole = max(1, math.ceil(seconds))
    if whole <= DAYS_30:
        return whole
    instant = int(time.time()) + whole  # by this machine's clock: the server compares it with its own
    return instant if instant <= LAST else 0


def store_all(peer: Peer, verb: str, items: Sequence[tuple[str, bytes]], expires: int) -> list[bool | None]:
    """`set` or `add` values. Return for each whether it was stored; None: it is larger than the server allows."""
    end = f"{verb} %b 0 {expires} %d\r\n".encode()
    request = b"".join([b"%b%b\r\n" % (end % (key.encode(), len(value)), value) for key, value in items])
    return peer.ask(request, lambda stream: _replies(peer, stream, STORED, len(items)))


def delete_all(peer: Peer, keys: Sequence[str]) -> None:
    """Delete keys; those that do not exist are ignored."""
    request = b"".join([b"delete %b\r\n" % key.encode() for key in keys])
    peer.ask(request, lambda stream: _replies(peer, stream, DELETED, len(keys)))


def get_all(peer: Peer, keys: Sequence[str]) -> dict[str, bytes]:
    """Return the values of the keys that exist."""
    return peer.ask(f"get {' '.join(keys)}\r\n".encode(), _values(peer, frozenset(keys)))


def _values(peer: Peer, keys: frozenset[str]) -> Callable[[Stream], dict[str, bytes]]:
    def read(stream: Stream) -> dict[str, bytes]:
        found = {}
        while (line := stream.line()) != b"END":
            parts = line.split(b" ")
            if len(parts) != 4 or parts[0] != b"VALUE" or not SIZE.fullmatch(parts[3]):
                raise _unexpected(peer, line)
            key = parts[1].decode(errors="replace")
            if key not in keys:
                raise Garbled("it sends a value that it was not asked for")
            value = stream.take(int(parts[3]) + 2)
            if not value.endswith(b"\r\n"):
                raise Garbled("a value without an end")
            found[key] = value[:-2]
        return found

    return read


def _replies(peer: Peer, stream: Stream, known: Mapping[bytes, bool | None], number: int) -> list[bool | None]:
    """Read replies of one line each; return what they mean."""
    lines = stream.lines(min(number, 1))  # a server of another kind may send no more
    if known.keys() >= set(lines):
        lines += stream.lines(number - len(lines))
    try:
        return [known[line] for line in lines]
    except KeyError as error:
        raise _unexpected(peer, error.args[0]) from None


def _unexpected(peer: Peer, line: bytes) -> Exception:
    if line.startswith(ERRORS):
        return peer.refused(line)
    return Garbled(f"it replies {line[:40]!r}")
