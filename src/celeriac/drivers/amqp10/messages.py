"""Messages of AMQP 1.0 as bytes, without objects: sections are put together, and the few that count are read.

Every message with a task is one binary data section. What other programs have sent may have any body: a string or
binary value is taken as its bytes, and of anything else the section as it is.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

__all__ = ["Received", "decode", "encode", "fields"]

HEADER, ANNOTATIONS, DATA, VALUE = 0x70, 0x72, 0x75, 0x77  # the codes of sections
BYTES = frozenset({0xA0, 0xA1, 0xA3, 0xB0, 0xB1, 0xB3})  # binary, string and symbol
TRUE, BOOLEAN = 0x41, 0x56
LONG_LENGTH = struct.Struct("!I")
USUAL_PRIORITY = 4  # the protocol's
DELIVERY_TIME, DELIVERY_DELAY = b"x-opt-delivery-time", b"x-opt-delivery-delay"  # milliseconds
DEEPEST = 8  # descriptors within descriptors

_HEADER = b"\x00\x53\x70\xc0\x04\x02\x41\x50"  # durable, and of this priority


class Received(NamedTuple):
    """What counts of a message that was received."""

    body: bytes
    first: bool = True  # nobody else has acquired it before
    failures: int = 0  # how often its delivery has failed, as far as the server counts


def encode(body: bytes, priority: int = USUAL_PRIORITY, id: str = "", subject: str = "", at: float | None = None,
           delay: float | None = None) -> bytes:  # fmt: skip
    """Return a durable message. The server may deliver it from the instant `at`, or after `delay` seconds.

    >>> decode(encode(b"task", priority=9, subject="mail"))
    Received(body=b'task', first=True, failures=0)
    """
    parts = [_HEADER, bytes((priority,))]
    if at is not None or delay is not None:
        name, value = (DELIVERY_TIME, at) if at is not None else (DELIVERY_DELAY, delay)
        pair = b"\xa3" + bytes((len(name),)) + name + b"\x81" + struct.pack("!q", math.ceil((value or 0.0) * 1000))
        parts.append(b"\x00\x53\x72\xc1" + bytes((len(pair) + 1, 2)) + pair)
    if id or subject:
        fields = _string(id) + b"\x40\x40" + _string(subject)
        parts.append(b"\x00\x53\x73\xd0" + struct.pack("!II", len(fields) + 4, 4) + fields)
    size = len(body)
    parts.append(b"\x00\x53\x75\xa0" + bytes((size,)) if size < 256 else b"\x00\x53\x75\xb0" + LONG_LENGTH.pack(size))
    parts.append(body)
    return b"".join(parts)


def _string(text: str) -> bytes:
    data = text.encode()
    return b"\xb1" + LONG_LENGTH.pack(len(data)) + data if data else b"\x40"


def decode(data: bytes | bytearray) -> Received:
    """Read a message. Raises `ValueError` for bytes that are none."""
    try:
        return _decode(bytes(data))
    except IndexError as error:
        raise ValueError("the message ends too early") from error


def _decode(data: bytes) -> Received:
    first, failures, place = True, 0, 0
    bodies: list[bytes] = []
    while place < len(data):
        if data[place] != 0:
            raise ValueError(f"a section begins with {data[place]:#04x}")
        code = data[place + 2] if data[place + 1] == 0x53 else -1
        start = _end(data, place + 1, 0)
        end = _end(data, start, 0)
        if end > len(data):
            raise IndexError
        if code == HEADER:
            first, failures = _header(data[start:end])
        elif code in (DATA, VALUE) and data[start] in BYTES:
            bodies.append(data[start + (2 if data[start] < 0xB0 else 5) : end])
        elif code in (DATA, VALUE, 0x76):
            bodies.append(data[place:end])
        place = end
    return Received(bodies[0] if len(bodies) == 1 else b"".join(bodies), first, failures)


def _end(data: bytes, place: int, depth: int) -> int:
    """Return where the value ends that begins at a place."""
    code = data[place]
    if code == 0:
        if depth > DEEPEST:
            raise ValueError("a descriptor is nested too deeply")
        return _end(data, _end(data, place + 1, depth + 1), depth + 1)
    kind = code >> 4
    if 4 <= kind <= 9:
        return place + 1 + (0, 1, 2, 4, 8, 16)[kind - 4]
    if kind in (0xA, 0xC, 0xE):
        return place + 2 + data[place + 1]
    if kind in (0xB, 0xD, 0xF):
        return place + 5 + int.from_bytes(data[place + 1 : place + 5], "big")
    raise ValueError(f"no type has the code {code:#04x}")


def _header(value: bytes) -> tuple[bool, int]:
    """Return `first-acquirer` and `delivery-count`: the fourth and fifth field of the list."""
    found = fields(value, 5)
    first = len(found) < 4 or found[3][0] == TRUE or found[3] == bytes((BOOLEAN, 1))
    if len(found) < 5 or found[4][0] not in (0x52, 0x70):
        return first, 0
    return first, int.from_bytes(found[4][1:], "big")


def fields(value: bytes, most: int) -> list[bytes]:
    """Return up to so many fields of a list. Raises `ValueError` or `IndexError` for bytes that are none."""
    if value[0] == 0x45:
        return []
    if value[0] not in (0xC0, 0xD0):
        raise ValueError(f"no list has the code {value[0]:#04x}")
    place, count = (3, value[2]) if value[0] == 0xC0 else (9, int.from_bytes(value[5:9], "big"))
    found: list[bytes] = []
    while len(found) < min(count, most):
        end = _end(value, place, 0)
        if end > len(value):
            raise IndexError
        found.append(value[place:end])
        place = end
    return found
