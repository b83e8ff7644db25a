"""The frames between a client and the hub.

Each frame is four letters, a byte with the version of the protocol, and MessagePack. The letters and the place of the
version never change, so that each side can tell another version from what is no frame at all.

    request   [session, number, oldest, repeated, verb, arguments, over]
    reply     [number, kind, body]      kind: empty, or the name of an error, whose text is the body

A session is one conversation of one client. It numbers its requests; `oldest` is the lowest number that it still waits
for, so that the hub can forget the answers to earlier ones. `over` has later numbers that it waits for no more: some
requests wait a minute for something to happen, and the answers to all that was asked meanwhile need not be kept.
`repeated` says that the request was sent before, on a connection that was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta

from celeriac.model.gate import UNDECODABLE, Unreadable

__all__ = [
    "FRAME_BYTES",
    "LARGEST_FRAME",
    "VERSION",
    "OtherVersion",
    "Reply",
    "Request",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
    "other_version",
    "portions",
]  # fmt: skip

LETTERS: Final = b"CLRZ"
VERSION: Final = 1
START: Final = LETTERS + bytes([VERSION])
HEAD: Final = len(START)
LARGEST_FRAME: Final = (1 << 30) + (1 << 20)  # bytes: one message of the largest size there is, and what is around it
FRAME_BYTES: Final = 4 << 20  # of what is asked or answered at once, unless one item of it has more

Item = TypeVar("Item")

Number = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Request(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a client wants."""

    session: Annotated[bytes, Meta(min_length=16, max_length=16)]
    number: Number
    oldest: Number
    repeated: bool
    verb: Annotated[str, Meta(max_length=100)]
    arguments: msgspec.Raw
    over: list[Number] = []


class Reply(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the hub answers."""

    number: Number
    kind: Annotated[str, Meta(max_length=100)]
    body: msgspec.Raw


class OtherVersion(Unreadable):
    """The frame is in another version of the protocol."""

    def __init__(self, version: int) -> None:
        super().__init__(f"it is in version {version} of the protocol, and this is version {VERSION}")
        self.version = version


_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_reply = msgspec.msgpack.Decoder(Reply).decode


def encode_request(request: Request) -> bytes:
    """Return a request as a frame."""
    return START + _encode(request)


def encode_reply(number: int, kind: str, body: Any) -> bytes:
    """Return a reply as a frame."""
    return START + _encode((number, kind, body))


def decode_request(frame: bytes) -> Request:
    """Return the request of a frame. Raises `OtherVersion`, `Unreadable`."""
    _check(frame)
    try:
        return _decode_request(memoryview(frame)[HEAD:])
    except UNDECODABLE as error:
        raise Unreadable(f"not a request: {error}") from None


def decode_reply(frame: bytes) -> Reply:
    """Return the reply of a frame. Raises `OtherVersion`, `Unreadable`."""
    _check(frame)
    try:
        return _decode_reply(memoryview(frame)[HEAD:])
    except UNDECODABLE as error:
        raise Unreadable(f"not a reply: {error}") from None


def other_version() -> bytes:
    """Return the frame that answers a client of another version: it reads the version, and nothing more."""
    return START


def _check(frame: bytes) -> None:
    if not frame.startswith(START):
        if frame[: len(LETTERS)] == LETTERS and len(frame) >= HEAD:
            raise OtherVersion(frame[HEAD - 1])
        raise Unreadable("it is no frame of Celeriac's")


def portions(items: Sequence[Item], size: Callable[[Item], int], most: int) -> Iterator[Sequence[Item]]:
    """Yield items in their order, `most` at a time, and no more than fit into a frame."""
    start = total = 0
    for place, item in enumerate(items):
        more = size(item)
        if place > start and (place - start == most or total + more > FRAME_BYTES):
            yield items[start:place]
            start, total = place, 0
        total += more
    if start < len(items):
        yield items[start:]
