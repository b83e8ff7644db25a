"""Seals: what proves that bytes were written by somebody with a key, and hides them if wanted.

Sealed bytes begin with 0xC1, which begins neither MessagePack nor JSON, so that they are never mistaken for plain ones:

    signed      C1 01, id of the key (4), HMAC-SHA256 truncated to 128 bits (16), the bytes
    encrypted   C1 02, id of the key (4), salt (16), number (8), the bytes in AES-256-GCM (and its tag, 16)

Signing is RFC 2104's; encryption.py encrypts. Both forms are accepted, so that encryption can be switched on while
workers run. The first key of `security_keys` seals, and all of them open, so that keys can be replaced likewise.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from hmac import compare_digest as same
from typing import TYPE_CHECKING, Final, TypeVar

from celeriac.errors import ImproperlyConfigured
from celeriac.model.gate import SEALED, Unreadable
from celeriac.model.keys import Key, Kind

if TYPE_CHECKING:
    from celeriac.model.encryption import Cipher

__all__ = ["MOST_ADDED", "Seal", "is_sealed"]

Bytes = bytes | memoryview
Value = TypeVar("Value")

SIGNED: Final = SEALED + b"\x01"
ENCRYPTED: Final = SEALED + b"\x02"
HEAD: Final = 6  # bytes: the form, and the id of the key
TAG: Final = 16
SEAL: Final = HEAD + TAG  # bytes before what is signed
WRONG: Final = "its signature is wrong: it was changed, or signed for another use or prefix"
MOST_ADDED: Final = HEAD + 16 + 8 + TAG  # bytes that a seal adds, in its longer form


class Seal:
    """Seals values of one kind with the first of some keys, and opens those sealed with any of them.

    `context` is what a value belongs to, such as the id of its workflow: it is not stored, and must be the same.
    """

    def __init__(self, kind: Kind, keys: Sequence[Key], prefix: str, encrypt: bool) -> None:
        self._kind = kind
        self._secrets = {key.id: secret for key in keys if (secret := key.derive(kind, prefix)) is not None}
        self._signers = {SIGNED + id: _Signer(secret) for id, secret in self._secrets.items()}
        self._ciphers: dict[bytes, Cipher] = {}
        first = keys[0].id
        self._head = (ENCRYPTED if encrypt else SIGNED) + first
        self._signer = self._signers.get(SIGNED + first)
        self._cipher = None
        if encrypt and first in self._secrets:
            self._cipher = self._ciphers[self._head] = _cipher(self._secrets[first], self._head)

    def close(self, data: bytes, context: bytes = b"") -> bytes:
        """Return the bytes, sealed. Raises `ImproperlyConfigured` if the key must not seal this kind."""
        if self._cipher is not None:
            return self._cipher.encrypt(data, context)
        if self._signer is None:
            raise ImproperlyConfigured(
                f"A value of the kind {self._kind!r} must be signed, and the first of `security_keys` is a caller's "
                "key, which calls tasks and reads results alone. Workers and commands to them need the whole key."
            )
        return self._head + self._signer.tag(data, context) + data

    def closing(self, encode: Callable[[Value], bytes]) -> Callable[[Value], bytes]:
        """Return a function that encodes a value and seals it without a context, as fast as it can."""
        if self._cipher is not None:
            encrypt = self._cipher.encrypt
            return lambda value: encrypt(encode(value), b"")
        if self._signer is None:
            return lambda value: self.close(encode(value))
        head, begun, ending = self._head, self._signer.inner.copy, self._signer.outer.copy

        def close(value: Value) -> bytes:
            # This is `close` and `tag`, written out: it is called for each message and each outcome.
            data = encode(value)
            inner, outer = begun(), ending()
            inner.update(data)
            outer.update(inner.digest())
            return head + outer.digest()[:TAG] + data

        return close

    def open(self, data: Bytes, context: bytes = b"") -> Bytes:
        """Return the bytes that were sealed. Raises `Unreadable` if the seal is missing or wrong."""
        head = bytes(data[:HEAD])
        signer = self._signers.get(head)
        if signer is None:
            return self._decrypt(head, bytes(data), context)
        view = memoryview(data)
        rest = view[SEAL:]
        if not same(signer.tag(rest, context), view[HEAD:SEAL]):
            raise Unreadable(WRONG)
        return rest

    def opening(self, others: Callable[[Bytes], Bytes]) -> Callable[[Bytes], Bytes]:
        """Return a function that opens what `closing` has sealed, as fast as it can, and gives `others` the rest."""
        if self._cipher is not None:
            return self._cipher.opening(others)
        if self._signer is None:
            return others
        head, begun, ending = self._head, self._signer.inner.copy, self._signer.outer.copy

        def opened(data: Bytes) -> Bytes:
            # This is `open` and `tag`, written out: it is called for each message. A copy of a few hundred bytes
            # takes less time than a view of them.
            if not isinstance(data, bytes) or not data.startswith(head):
                return others(data)
            rest = data[SEAL:]
            inner, outer = begun(), ending()
            inner.update(rest)
            outer.update(inner.digest())
            if not same(outer.digest()[:TAG], data[HEAD:SEAL]):
                raise Unreadable(WRONG)
            return rest

        return opened

    def _decrypt(self, head: bytes, data: bytes, context: bytes) -> bytes:
        cipher = self._ciphers.get(head)
        if cipher is None:
            if not is_sealed(head):
                raise Unreadable("it is not signed, and `security_keys` demands it")
            secret = self._secrets.get(head[2:])
            if not head.startswith(ENCRYPTED) or secret is None:
                raise Unreadable(f"it was signed with the key {head[2:].hex()}, which is not among `security_keys` "
                                 "here, or must not sign this")  # fmt: skip
            try:
                cipher = self._ciphers[head] = _cipher(secret, head)
            except ImproperlyConfigured as error:
                raise Unreadable(str(error)) from None
        return cipher.decrypt(data, context)


class _Signer:
    """HMAC-SHA256 with one key. The states after its padded key are kept, which halves the cost for short values."""

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(64, b"\0")  # a key has 32 bytes, a block of SHA-256 64
        self.inner = sha256(bytes(byte ^ 0x36 for byte in padded))
        self.outer = sha256(bytes(byte ^ 0x5C for byte in padded))

    def tag(self, data: Bytes, context: bytes) -> bytes:
        """Return the tag of bytes in their context."""
        inner, outer = self.inner.copy(), self.outer.copy()
        if context:
            inner.update(len(context).to_bytes(4) + context)
        inner.update(data)
        outer.update(inner.digest())
        return outer.digest()[:TAG]


def is_sealed(data: Bytes) -> bool:
    """Return whether bytes are sealed, rightly or not."""
    return bytes(data[:1]) == SEALED


@cache
def _cipher(secret: bytes, head: bytes) -> Cipher:
    try:
        encryption = importlib.import_module("celeriac.model.encryption")
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(f"Encryption needs a package that is not installed ({error.name}): "
                                   "pip install 'celeriac[crypto]'.") from error  # fmt: skip
    cipher: Cipher = encryption.Cipher(secret, head)
    return cipher
