"""Finds flow frames in the bytes of a server, and how many messages wait there. Proton drops that number."""

from __future__ import annotations

from collections.abc import Iterator

from celeriac.drivers.amqp10.messages import fields

__all__ = ["Frames"]

FLOW = b"\x00\x53\x13"
HEADER = b"AMQP"
HEADER_SIZE = 8  # of a protocol header, and of what a frame begins with
AVAILABLE = 7  # the field's place


class Frames:
    """Follows the frames of a stream of bytes."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._tail = b""  # of a frame that has not come to its end

    def split(self, data: bytes) -> Iterator[tuple[bytes, int | None]]:
        """Yield all bytes in parts: each flow frame by itself, with the number of available messages that it tells.

        The number is None for other parts, and for a flow that tells none.
        """
        data = self._tail + data
        start = place = 0
        while place + HEADER_SIZE <= len(data):
            size = HEADER_SIZE
            if data[place : place + 4] != HEADER:
                size = max(HEADER_SIZE, int.from_bytes(data[place : place + 4], "big"))
            if size > self._largest:  # proton refuses it
                yield data[start:], None
                self._tail = b""
                return
            end = place + size
            if end > len(data):
                break
            body = place + 4 * data[place + 4]
            if data[body : body + 3] == FLOW:
                if start < place:
                    yield data[start:place], None
                yield data[place:end], _available(data[body + 3 : end])
                start = end
            place = end
        self._tail = data[place:]
        if start < place:
            yield data[start:place], None


def _available(value: bytes) -> int | None:
    try:
        found = fields(value, AVAILABLE + 1)
    except (IndexError, ValueError):
        return None
    if len(found) <= AVAILABLE:
        return None
    field = found[AVAILABLE]
    if field[0] == 0x43:
        return 0
    if field[0] == 0x52:
        return field[1]
    return int.from_bytes(field[1:], "big") if field[0] == 0x70 else None
