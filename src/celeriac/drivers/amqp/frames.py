"""Turns bytes into events, and publications into bytes. No I/O: both connections use it.

The methods that each task needs (publish, deliver, acknowledge, confirm) are encoded and decoded here, field by field;
pamqp does all other methods.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import msgspec
from pamqp import decode, encode, frame

__all__ = ["HEARTBEAT", "Confirmed", "Content", "Event", "Method", "Parser", "Publication", "acknowledge", "method",
           "properties", "publish"]  # fmt: skip

FRAME_METHOD, FRAME_HEADER, FRAME_BODY = 1, 2, 3
DELIVER, RETURN, GET_OK, ACK, NACK = 0x003C003C, 0x003C0032, 0x003C0047, 0x003C0050, 0x003C0078
END: Final = b"\xce"
HEARTBEAT: Final = b"\x08\0\0\0\0\0\0\xce"
HEAD: Final = struct.Struct(">BHI")
DELIVERY: Final = struct.Struct(">Q?")  # tag, redelivered
MANY_NAMES: Final = 1000
PERSISTENT: Final = b"\x02"


class Publication(NamedTuple):
    """A message, and its destination."""

    exchange: str
    routing_key: str
    properties: bytes
    body: bytes
    mandatory: bool = True


class Content(msgspec.Struct, gc=False):
    """A message that the server has sent: delivered, fetched, or returned as unroutable."""

    kind: int
    channel: int
    routing_key: str = ""
    exchange: str = ""
    consumer_tag: str = ""
    tag: int = 0
    redelivered: bool = False
    properties: bytes = b""
    body: bytes = b""

    @property
    def returned(self) -> bool:
        """Whether the server returns it because it reached no queue."""
        return self.kind == RETURN

    @property
    def fetched(self) -> bool:
        """Whether it is the answer to a `basic.get`."""
        return self.kind == GET_OK

    def headers(self) -> dict[str, Any]:
        """Decode the table of headers, which most readers do not need."""
        [flags] = struct.unpack_from(">H", self.properties)
        offset = 2
        for bit in (0x8000, 0x4000):  # content type and encoding come before
            if flags & bit:
                offset += 1 + self.properties[offset]
        if not flags & 0x2000:
            return {}
        return decode.field_table(self.properties[offset:])[1]


class Confirmed(msgspec.Struct, gc=False):
    """The server has accepted (or refused) publications: one, or all up to a tag."""

    channel: int
    tag: int
    multiple: bool
    good: bool


class Method(msgspec.Struct):
    """Any other method, as decoded by pamqp."""

    channel: int
    frame: Any


Event = Content | Confirmed | Method


class Parser:
    """Splits a stream of bytes into events."""

    def __init__(self) -> None:
        self._rest = b""
        self._open: dict[int, tuple[Content, int, list[bytes]]] = {}  # by channel: the message that is incomplete
        self._names: dict[bytes, tuple[str, str, str]] = {}  # consumer, exchange, key: they repeat

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that these bytes complete."""
        data = self._rest + data if self._rest else data
        events: list[Event] = []
        start, end = 0, len(data)
        while end - start >= 8:
            kind, channel, size = HEAD.unpack_from(data, start)
            begin = start + 7
            stop = begin + size
            if stop >= end:
                break
            if kind == FRAME_METHOD:
                event = self._method(data, channel, begin, start, stop)
                if event is not None:
                    events.append(event)
            elif kind == FRAME_HEADER:
                content, _, parts = self._open[channel]
                [total] = struct.unpack_from(">Q", data, begin + 4)
                content.properties = data[begin + 12 : stop]
                if total:
                    self._open[channel] = content, total, parts
                else:
                    del self._open[channel]
                    events.append(content)
            elif kind == FRAME_BODY:
                content, total, parts = self._open[channel]
                if size == total:
                    content.body = data[begin:stop] if not parts else b"".join((*parts, data[begin:stop]))
                    del self._open[channel]
                    events.append(content)
                else:
                    parts.append(data[begin:stop])
                    self._open[channel] = content, total - size, parts
            start = stop + 1
        self._rest = data[start:]
        return events

    def _method(self, data: bytes, channel: int, begin: int, start: int, stop: int) -> Event | None:
        [index] = struct.unpack_from(">I", data, begin)
        at = begin + 4
        if index == DELIVER:
            after = at + 1 + data[at]
            tag, redelivered = DELIVERY.unpack_from(data, after)
            names = data[at:after] + data[after + 9 : stop]
            consumer, exchange, key = self._names.get(names) or self._read_names(names)
            content = Content(DELIVER, channel, key, exchange, consumer, tag, redelivered)
        elif index in (ACK, NACK):
            tag, bits = struct.unpack_from(">QB", data, at)
            return Confirmed(channel, tag, bool(bits & 1), index == ACK)
        elif index == GET_OK:
            [tag] = struct.unpack_from(">Q", data, at)
            exchange, after = _short(data, at + 9)
            key, _ = _short(data, after)
            content = Content(GET_OK, channel, key, exchange, "", tag, bool(data[at + 8]))
        elif index == RETURN:
            _, at = _short(data, at + 2)
            exchange, at = _short(data, at)
            key, _ = _short(data, at)
            content = Content(RETURN, channel, key, exchange)
        else:
            return Method(channel, frame.unmarshal(data[start : stop + 1])[2])
        self._open[channel] = content, 0, []
        return None

    def _read_names(self, names: bytes) -> tuple[str, str, str]:
        if len(self._names) >= MANY_NAMES:
            self._names.clear()
        consumer, at = _short(names, 0)
        exchange, at = _short(names, at)
        self._names[names] = found = consumer, exchange, _short(names, at)[0]
        return found


def _short(data: bytes, at: int) -> tuple[str, int]:
    stop = at + 1 + data[at]
    return data[at + 1 : stop].decode(), stop


def method(channel: int, what: Any) -> bytes:
    """Encode a method of pamqp."""
    return frame.marshal(what, channel)


def properties(priority: int | None = None, message_id: str = "", type: str = "",
               headers: dict[str, Any] | None = None) -> bytes:  # fmt: skip
    """Encode the properties of a durable message."""
    flags, parts = 0x1000, [PERSISTENT]
    if headers:
        flags |= 0x2000
        parts.insert(0, encode.field_table(headers))
    if priority is not None:
        flags |= 0x0800
        parts.append(bytes((priority,)))
    if message_id:
        flags |= 0x0080
        parts.append(_packed(message_id))
    if type:
        flags |= 0x0020
        parts.append(_packed(type))
    return struct.pack(">H", flags) + b"".join(parts)


def publish(channel: int, what: Publication, frame_max: int) -> bytes:
    """Encode a publication: a method, a header, and body frames of at most `frame_max` bytes."""
    exchange, key, props, body, mandatory = what
    arguments = b"\0\x3c\0\x28\0\0" + _packed(exchange) + _packed(key) + (b"\x01" if mandatory else b"\0")
    parts = [
        HEAD.pack(FRAME_METHOD, channel, len(arguments)), arguments, END,
        HEAD.pack(FRAME_HEADER, channel, 12 + len(props)), b"\0\x3c\0\0", struct.pack(">Q", len(body)), props, END,
    ]  # fmt: skip
    longest = frame_max - 8
    if len(body) <= longest:
        if body:
            parts += HEAD.pack(FRAME_BODY, channel, len(body)), body, END
    else:
        for at in range(0, len(body), longest):
            piece = body[at : at + longest]
            parts += HEAD.pack(FRAME_BODY, channel, len(piece)), piece, END
    return b"".join(parts)


def acknowledge(channel: int, tag: int, multiple: bool) -> bytes:
    """Encode an acknowledgement; `multiple`: of all messages up to the tag."""
    return HEAD.pack(FRAME_METHOD, channel, 13) + struct.pack(">IQB", ACK, tag, multiple) + END


def _packed(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data
