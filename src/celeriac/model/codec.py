"""The codec: how the values of an app become bytes on servers, and back: plain, signed or encrypted.

Each app has one, made of its settings `security_*`. Adapters encode and decode with it whatever they store or send, and
so no adapter knows about keys. Without keys, the functions that encode are those of `message.py` and `outcome.py`, and
cost nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from celeriac.lazy import LazyModule
from celeriac.model import message as plain
from celeriac.model.gate import LARGEST, Unreadable
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome, decode_outcome, encode_outcome, unreadable_outcome

if TYPE_CHECKING:
    from celeriac.model import seals
    from celeriac.model.keys import Key, Kind
else:  # most apps have no keys
    seals = LazyModule("celeriac.model.seals")

__all__ = ["PLAIN_CODEC", "Codec", "codec_of"]

Bytes = bytes | memoryview
BYTES: Final = (bytes, memoryview)


class Codec:
    """Encodes and decodes. With `lenient`, what is not signed is accepted too, while callers are given keys."""

    encode: Callable[[Message], bytes]
    """Return a message as bytes."""
    encode_outcome: Callable[[Outcome], bytes]
    """Return an outcome as bytes."""

    def __init__(self, keys: Sequence[Key] = (), prefix: str = "", encrypt: bool = False, lenient: bool = False,
                 largest: int = LARGEST) -> None:  # fmt: skip
        self.largest = largest  # bytes of a message that is decoded, without its seal
        self.signs = bool(keys)
        self.encrypts = bool(keys) and encrypt
        self._keys = tuple(keys)
        self._prefix = prefix
        self._lenient = lenient
        self._seals: dict[Kind, seals.Seal] = {}
        self.encode, self.encode_outcome = plain.encode, encode_outcome
        if keys:
            self._largest_sealed = largest + seals.MOST_ADDED
            self.encode = self._seal_of("message").closing(plain.encode)
            self.encode_outcome = self._seal_of("outcome").closing(encode_outcome)
            self._open_message = self._seal_of("message").opening(partial(self.open, "message"))

    def decode(self, data: Bytes, queue: str | None) -> Message:
        """Return the message from bytes that were found in a queue (None: in any). Raises `Unreadable`.

        A plain message that names another queue was moved by an operator, and belongs where it is.
        """
        if self.signs:
            if isinstance(data, BYTES) and len(data) > self._largest_sealed:
                raise plain.too_large(len(data), self.largest)
            data = self._open_message(data)
        message = plain.decode(data, self.largest)
        if message.queue != queue and queue is not None:
            if self.signs:
                raise Unreadable(f"it was signed for the queue {message.queue!r}, and found in {queue!r}")
            return replace(message, queue=queue)
        return message

    def decode_outcome(self, data: Bytes) -> Outcome:
        """Return the outcome from its bytes. Raises `Unreadable`."""
        return decode_outcome(self.open("outcome", data) if self.signs else data)

    def read_outcome(self, id: str, data: Bytes) -> Outcome:
        """Return the stored outcome of a task; for unreadable bytes, a failure that says so: `get` raises it."""
        try:
            outcome = self.decode_outcome(data)
            if outcome.id != id:
                raise Unreadable(f"it is the outcome of another task, {outcome.id}")
        except Unreadable as error:
            return unreadable_outcome(id, error)
        return outcome

    def seal(self, kind: Kind, data: bytes, context: str = "") -> bytes:
        """Return bytes as they are stored. Raises `ImproperlyConfigured` if the key must not sign this kind."""
        return self._seal_of(kind).close(data, context.encode()) if self.signs else data

    def open(self, kind: Kind, data: Bytes, context: str = "") -> Bytes:
        """Return the bytes that `seal` was given. Raises `Unreadable`."""
        if not self.signs:
            return data
        if not isinstance(data, BYTES):  # SQLite stores any type in any column
            raise Unreadable("it is not signed, and not even bytes")
        if self._lenient and not seals.is_sealed(data):
            return data
        return self._seal_of(kind).open(data, context.encode() if context else b"")

    def _seal_of(self, kind: Kind) -> seals.Seal:
        seal = self._seals.get(kind)
        if seal is None:
            seal = self._seals[kind] = seals.Seal(kind, self._keys, self._prefix, self.encrypts)
        return seal

    def __repr__(self) -> str:
        how = "encrypts" if self.encrypts else "signs" if self.signs else "plain"
        return f"<Codec {how}>"


PLAIN_CODEC: Final = Codec()
"""A codec without keys and limits."""


@cache
def codec_of(keys: tuple[Key, ...], prefix: str, encrypt: bool, lenient: bool, largest: int = LARGEST) -> Codec:
    """Return the one codec for these arguments: connections are shared by those that have the same."""
    return Codec(keys, prefix, encrypt, lenient, largest) if keys or largest != LARGEST else PLAIN_CODEC
