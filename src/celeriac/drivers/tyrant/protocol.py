"""Tokyo Tyrant's binary protocol: requests as bytes, and the functions that read their replies from a `Stream`.

| request | bytes (sizes and numbers: 32 bits, big-endian) | reply |
|---|---|---|
| put | C8 10, size of key, size of value, key, value | a code |
| put if new | C8 11, the same | a code: 1 if the key exists, but also if the server must not write |
| out (delete) | C8 20, size of key, key | a code: 1 if the key does not exist |
| get many | C8 31, number of keys, for each: size, key | a code, a number, for each: both sizes, key, value |
| keys with a prefix | C8 58, size of prefix, how many at most, prefix | a code, a number, for each: size, key |

A code is one byte, 0 for success. Requests are sent many at a time; the server replies in their order. All functions
raise `BackendError`, as `Peer.ask` does, and if the server refuses a request.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from celeriac.drivers.peer import Garbled, Peer, Stream

__all__ = ["LARGEST", "Put", "delete_all", "get_all", "keys_with", "put_all"]

LARGEST: Final = 32 * 1024 * 1024  # bytes of a value; the server closes the connection if there are more

PUT, PUT_NEW, OUT, GET_MANY, KEYS_WITH = (bytes((0xC8, code)) for code in (0x10, 0x11, 0x20, 0x31, 0x58))
ONE, TWO = struct.Struct(">I"), struct.Struct(">II")


class Put(NamedTuple):
    """A value to set; with `new`, only if the key does not exist."""

    key: bytes
    value: bytes
    new: bool


def put_all(peer: Peer, puts: Sequence[Put]) -> list[bool]:
    """Set values. Return for each whether it was set: False for a `new` one whose key exists, or that is refused."""
    request = b"".join(
        [
            b"%b%b%b%b" % (PUT_NEW if new else PUT, TWO.pack(len(key), len(value)), key, value)
            for key, value, new in puts
        ]
    )
    done = [code == 0 for code in peer.ask(request, lambda stream: _codes(stream, len(puts)))]
    if not all(was_set or put.new for put, was_set in zip(puts, done, strict=True)):
        raise peer.refused(b"it cannot set a value. Is its disk full, or is it a replica that only reads?")
    return done


def delete_all(peer: Peer, keys: Sequence[bytes]) -> int:
    """Delete keys; return how many of them existed."""
    request = b"".join([b"%b%b%b" % (OUT, ONE.pack(len(key)), key) for key in keys])
    return peer.ask(request, lambda stream: _codes(stream, len(keys))).count(0)


def get_all(peer: Peer, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the values of the keys that exist."""
    request = GET_MANY + ONE.pack(len(keys)) + b"".join([ONE.pack(len(key)) + key for key in keys])
    asked = frozenset(keys)

    def read(stream: Stream) -> dict[bytes, bytes]:
        found = {}
        for _ in range(_count(stream, len(keys))):
            key_size, value_size = TWO.unpack(stream.take(TWO.size))
            key = stream.take(_size(key_size))
            if key not in asked:
                raise Garbled("it sends a value that it was not asked for")
            found[key] = stream.take(_size(value_size))
        return found

    return peer.ask(request, read)


def keys_with(peer: Peer, prefix: bytes, most: int) -> list[bytes]:
    """Return keys that begin with a prefix, and at most so many."""

    def read(stream: Stream) -> list[bytes]:
        sizes = (ONE.unpack(stream.take(ONE.size))[0] for _ in range(_count(stream, most)))
        found = [stream.take(_size(size)) for size in sizes]
        if not all(key.startswith(prefix) for key in found):
            raise Garbled("it lists keys that it was not asked for")
        return found

    return peer.ask(KEYS_WITH + TWO.pack(len(prefix), most) + prefix, read)


def _codes(stream: Stream, number: int) -> bytes:
    codes = stream.take(number)
    if any(code > 1 for code in codes):
        raise Garbled(f"it replies {codes[:40]!r}")
    return codes


def _count(stream: Stream, most: int) -> int:
    """Read the head of a reply that lists something; return how many there are."""
    [code] = _codes(stream, 1)
    count: int = ONE.unpack(stream.take(ONE.size))[0] if code == 0 else 0
    if count > most:
        raise Garbled(f"it lists {count} instead of {most}")
    return count


def _size(number: int) -> int:
    if number > 2 * LARGEST:
        raise Garbled(f"it announces {number} bytes")
    return number
