"""A server of AMQP 1.0 that lies: frames whose fields have other types and values, and bytes that are no frames."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tests.fuzz.mutations import Mutator

__all__ = ["AmqpLiar"]

DESCRIPTORS = (0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x40, 0x41, 0x44, 0x1D, 0x23, 0x24, 0x25, 0x70,
               0x00)  # fmt: skip
TERMS: Sequence[bytes] = (
    b"\x40", b"\x41", b"\x43", b"\x44", b"\x45", b"\x52\xff", b"\x70\xff\xff\xff\xff", b"\x80" + b"\xff" * 8,
    b"\xa1\x02\xff\xfe", b"\xa3\x01x", b"\xa3\x02\xff\xff", b"\xb1\0\0\0\x01x", b"\xb1\xff\xff\xff\xff",
    b"\xb0\0\0", b"\xc0\x03\x01\x40\x40", b"\xc1\x05\x02\x45\x40\xa3\0", b"\xd1\0\0\0\x06\0\0\0\x02\x45\x45",
    b"\xf0\0\0\0\x05\0\0\0\0\x40", b"\xe0\x03\x00\x40\x00", b"\0" * 12, b"\0\x53\x24\x45", b"\0\x53\x28\x45",
    b"\0\x53\x29\x45", b"\0\xa3\x01x\x40", b"\x3f", b"\x82\x7f\xf8" + b"\0" * 6, b"\x83" + b"\xff" * 8,
    b"\x74\0\0\xd8\0\0", b"\x98" + b"x" * 16, b"\xa0\xff",
)  # fmt: skip
STREAMS: Sequence[bytes] = (
    b"", b"AMQP\0\0\x09\x01", b"AMQP\x03\x01\0\0", b"AMQP\0\x01\0\0" * 3, b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\0" * 64, b"\xff" * 64, b"\0\0\0\x08\x02\0\0\0" * 20, b"\0\0\0\x07\x02\0\0\0", b"\0\0\0\x08\xff\0\0\0",
    b"\0\0\0\x08\x02\x09\0\0", b"\x7f\xff\xff\xff\x02\0\0\0", b"\0\x01\0\0\x02\0\0\0" + b"\0" * 100,
)  # fmt: skip


class AmqpLiar:
    """Lies in AMQP 1.0."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._mutator = Mutator(seed)

    def heard(self, data: bytes) -> None:
        """Nothing that a client says matters: links are numbered from 0."""

    def lie(self, said: bytes) -> bytes:
        kind = self._random.randrange(6)
        if kind == 0:
            return self._random.choice(STREAMS)
        if kind == 1 and said:
            return self._mutator.mutated(said)
        if kind < 4 and said:
            return b"".join(map(self._changed, _frames(said)))
        return said + b"".join([self._frame() for _ in range(self._random.randint(1, 3))])

    def _changed(self, frame: bytes) -> bytes:
        """Return a frame whose body has changed, and whose size is right."""
        start = 4 * frame[4] if len(frame) > 8 else 8
        if frame[:4] == b"AMQP" or len(frame) <= start or self._random.random() < 0.5:
            return frame
        body = bytearray(frame[start:])
        for _ in range(self._random.randint(1, 3)):
            at = self._random.randrange(3, max(len(body), 4))
            if self._random.random() < 0.5:
                body[at : at + self._random.randrange(3)] = self._random.choice(TERMS)
            elif at < len(body):
                body[at] = self._random.choice((0, 0x40, 0x45, 0x7F, 0x80, 0xFF, self._random.randrange(256)))
        return _framed(bytes(body), frame[4:8])

    def _frame(self) -> bytes:
        fields = b"".join([self._random.choice(TERMS) for _ in range(self._random.randrange(14))])
        made = b"\0\x53" + bytes([self._random.choice(DESCRIPTORS)])
        made += b"\xd0" + (len(fields) + 4).to_bytes(4) + self._random.choice((3, 9, 11, 14)).to_bytes(4) + fields
        return _framed(made, b"\x02" + self._random.choice((b"\0", b"\0", b"\x01")) + b"\0\0")


def _framed(body: bytes, head: bytes) -> bytes:
    return (4 * head[0] + len(body)).to_bytes(4) + head + b"\0" * (4 * head[0] - 8) + body


def _frames(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    while data:
        size = 8 if data[:4] == b"AMQP" or len(data) < 8 else max(8, int.from_bytes(data[:4]))
        found.append(data[:size])
        data = data[size:]
    return found
