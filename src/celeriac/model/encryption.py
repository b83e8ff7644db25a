"""AES-256-GCM, for seals (seals.py). Imported only where encryption is used: it needs the package cryptography.

Each process that writes draws a salt, and derives its own key from the key of the kind and the salt; the nonce is the
number of the value in that process. So no pair of key and nonce repeats, however many values all processes write
(NIST SP 800-38D, 8.2.1; with random nonces, one key would be spent after 2³² values).
"""

from __future__ import annotations

import hmac
import os
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from celeriac.model.gate import Unreadable

__all__ = ["Cipher"]

SALT: Final = 16
NUMBER: Final = 8
NONCE: Final = 12
ZEROS: Final = bytes(NONCE - NUMBER)  # a nonce is the number in 12 bytes
WRONG: Final = "it cannot be decrypted: it was changed, or sealed for another use or prefix"
MOST_SALTS: Final = 4096  # processes whose derived keys are remembered

Bytes: TypeAlias = bytes | memoryview
Decrypt: TypeAlias = Callable[[bytes, bytes, bytes], bytes]


class Cipher:
    """Encrypts and decrypts with keys that are derived from one key. What it returns begins with `head`."""

    def __init__(self, key: bytes, head: bytes) -> None:
        self._key = key
        self._head = head
        self._salted = len(head) + SALT  # bytes up to the number
        self._generation = -1
        self._begins = b""  # the head, and the salt of this process
        self._numbers = count()
        self._own = AESGCM(key).encrypt  # replaced before its first use
        self._known: OrderedDict[bytes, Decrypt] = OrderedDict()  # by head and salt

    def encrypt(self, data: bytes, context: bytes) -> bytes:
        """Return the head, salt, number, and the encrypted bytes."""
        if self._generation != _generation:
            self._begin()
        nonce = next(self._numbers).to_bytes(NONCE)
        return self._begins + nonce[NONCE - NUMBER :] + self._own(nonce, data, context)

    def _begin(self) -> None:
        """Draw a salt: at first, and in the child of a fork, which would repeat its parent's numbers."""
        salt = os.urandom(SALT)
        self._begins, self._numbers = self._head + salt, count()
        self._own = self._derive(salt).encrypt
        self._generation = _generation

    def _derive(self, salt: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._key, b"salt " + salt, "sha256"))

    def decrypt(self, data: bytes, context: bytes) -> bytes:
        """Return the bytes that were encrypted, from all that `encrypt` has returned. Raises `Unreadable`."""
        before = data[: self._salted]
        known = self._known.get(before)
        decrypt = known or self._derive(before[-SALT:]).decrypt
        rest = self._salted + NUMBER
        try:
            plain = decrypt(ZEROS + data[self._salted : rest], data[rest:], context)
        except (InvalidTag, ValueError):
            raise Unreadable(WRONG) from None
        if known is None:  # only now: forged salts must not push out true ones
            self._known[before] = decrypt
            if len(self._known) > MOST_SALTS:
                self._known.popitem(last=False)
        return plain

    def opening(self, others: Callable[[Bytes], Bytes]) -> Callable[[Bytes], Bytes]:
        """Return a function that decrypts without a context, as fast as it can, and gives `others` new salts."""
        decrypt_of, salted, rest = self._known.get, self._salted, self._salted + NUMBER

        def opened(data: Bytes) -> Bytes:
            if not isinstance(data, bytes) or (decrypt := decrypt_of(data[:salted])) is None:
                return others(data)
            try:
                return decrypt(ZEROS + data[salted:rest], data[rest:], b"")
            except (InvalidTag, ValueError):
                raise Unreadable(WRONG) from None

        return opened


_generation = 0  # how many forks lie between the process that imported this module and this one


def _after_fork() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
