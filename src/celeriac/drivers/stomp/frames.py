"""The frames of STOMP 1.2, as bytes and back. No I/O: both connections use it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from celeriac.drivers.server_errors import ConnectionLost
from celeriac.model.gate import LARGEST

__all__ = ["HEARTBEAT", "Frame", "Parser", "Publication", "escaped", "frame", "headers"]

HEARTBEAT = b"\n"
MOST_HEADERS = 65536  # bytes, of one frame
MOST_BODY = LARGEST + MOST_HEADERS  # bytes: of one message of the largest size there is, and what is around it
LENGTH = re.compile(r"[0-9]{1,18}")
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", ":": "\\c"}
ESCAPED = re.compile(r"[\\\n\r:]")
UNESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r", "\\c": ":"}
UNESCAPED = re.compile(r"\\.")
BLANK_LINE = re.compile(rb"\n\r?\n")


class Frame(NamedTuple):
    """A frame that was received."""

    command: str
    headers: dict[str, str]
    body: bytes


class Publication(NamedTuple):
    """A message to be sent: its destination and its other headers (as `headers` makes them), and its body."""

    destination: str
    headers: bytes
    body: bytes

    def pack(self, more: bytes = b"") -> bytes:
        """Return the frame, with more headers."""
        return b"SEND\ndestination:%b\ncontent-length:%d\n%b%b\n%b\0" % (
            escaped(self.destination).encode(), len(self.body), self.headers, more, self.body,
        )  # fmt: skip


def escaped(text: str) -> str:
    """Return a header's name or value as it is written.

    >>> escaped("a:b")
    'a\\\\cb'
    """
    return ESCAPED.sub(lambda found: ESCAPES[found[0]], text) if ESCAPED.search(text) else text


def headers(items: Mapping[str, str]) -> bytes:
    """Return headers as bytes."""
    return "".join([f"{escaped(name)}:{escaped(value)}\n" for name, value in items.items()]).encode()


def frame(command: str, items: Mapping[str, str], escape: bool = True) -> bytes:
    """Return a frame without a body. CONNECT alone escapes nothing."""
    if not escape:
        return f"{command}\n{''.join(f'{name}:{value}{chr(10)}' for name, value in items.items())}\n\0".encode()
    return b"%b\n%b\n\0" % (command.encode(), headers(items))


class Parser:
    """Turns received bytes into frames."""

    def __init__(self) -> None:
        self._data = b""
        self._parts: list[bytes] = []  # of a body that has not arrived in whole
        self._missing = 0  # bytes, before it is worth looking again
        self._open = 0  # bytes of a body that ends with a zero, if one has begun

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are complete. Raises `ConnectionLost` for what is no frame."""
        if self._missing > len(data):
            self._missing -= len(data)
            self._parts.append(data)
            return []
        if self._open and b"\0" not in data:
            self._parts.append(data)
            self._open += len(data)
            if self._open > MOST_BODY:
                raise ConnectionLost("the server sent a frame without an end")
            return []
        data = b"".join([self._data, *self._parts, data])
        self._parts.clear()
        self._missing = self._open = 0
        found: list[Frame] = []
        at = 0
        while True:
            while data[at : at + 1] in (b"\n", b"\r"):
                at += 1
            blank = BLANK_LINE.search(data, at, at + MOST_HEADERS)
            if blank is None:
                if len(data) - at > MOST_HEADERS:
                    raise ConnectionLost(f"the server sent {data[at : at + 40]!r}…, which is no STOMP frame")
                break
            command, items = _head(data[at : blank.start()])
            length, begin = items.get("content-length"), blank.end()
            if length is None:
                end = data.find(b"\0", begin)
                if end < 0:
                    self._open = len(data) - at
                    break
            elif not LENGTH.fullmatch(length) or int(length) > MOST_BODY:
                raise ConnectionLost(f"the server sent a frame of {length[:40]!r} bytes")
            else:
                end = begin + int(length)
                if end >= len(data):
                    self._missing = end - len(data)
                    break
                if data[end]:
                    raise ConnectionLost("the server sent a frame that does not end where it says")
            found.append(Frame(command, items, data[begin:end]))
            at = end + 1
        self._data = data[at:]
        return found


def _head(data: bytes) -> tuple[str, dict[str, str]]:
    """Return a command and its headers: of those with the same name, the first one counts."""
    try:
        command, *lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise ConnectionLost(f"the server sent {data[:40]!r}…, which is no STOMP frame") from None
    items: dict[str, str] = {}
    for line in lines:
        name, _, value = line.rstrip("\r").partition(":")
        if "\\" in line:
            name, value = (UNESCAPED.sub(lambda found: UNESCAPES.get(found[0], found[0]), it) for it in (name, value))
        items.setdefault(name, value)
    return command.rstrip("\r"), items
