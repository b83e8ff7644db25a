"""Inputs of the fuzzer: good values with bad parts, good bytes with bad bytes, and the directed cases of `hostile`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["Mutator"]

NUMBERS: Sequence[Any] = (0, -1, 1, 9, 10, 99, 2**31, 2**53, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, -0.0, 1e300, -1e300,
                          math.nan, math.inf, -math.inf)  # fmt: skip
TEXTS: Sequence[Any] = ("", "x", "\0", "a\nb", "\x1b[2J", "zzz", "plain", "coroutine", "SUCCESS", "payments", "reply.x",
                        "t" * 1_001, "é" * 400, "\u202e", "{}", "a:b:7", "1\x00a")  # fmt: skip


class Mutator:
    """Makes inputs from a seed: the same seed makes the same inputs."""

    def __init__(self, seed: int, pack: Callable[[Any], bytes] = msgspec.msgpack.encode) -> None:
        self._random = random.Random(seed)
        self._pack = pack

    def make(self, good: Mapping[str, Any], corpus: Sequence[bytes]) -> bytes:
        """Return the next input: a variation of a good value, as bytes, or of an item of the corpus."""
        kind = self._random.randrange(10)
        if kind == 0:
            return self._random.choice(corpus)
        if kind == 1:
            return self.mutated(self._random.choice(corpus))
        try:
            data = self._pack(self._fields(good))
        except (ValueError, OverflowError, RecursionError):  # a lone surrogate, an integer of over 64 bits
            return b""
        return self.mutated(data) if kind < 4 else data

    def _fields(self, good: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy with one to three fields changed, left out or added."""
        made = dict(good)
        names = [*made, "headers", "place", "link", "due_at", "lane", "priority", "attempt", "queue", "time_limit"]
        for _ in range(self._random.randint(1, 3)):
            name = self._random.choice(names)
            if self._random.random() < 0.1:
                made.pop(name, None)
            else:
                made[name] = self.value(3)
        return made

    def value(self, depth: int) -> Any:
        kind = self._random.randrange(8 if depth else 5)
        if kind == 0:
            return self._random.choice(NUMBERS)
        if kind == 1:
            return self._random.choice(TEXTS)
        if kind == 2:
            return self._random.choice((None, True, False, b"", b"\xff\x00"))
        if kind == 3:
            return self._random.randint(-(2**40), 2**40)
        if kind == 4:
            return self._random.uniform(-1e12, 1e12)
        if kind == 5:
            return [self.value(depth - 1) for _ in range(self._random.randrange(5))]
        if kind == 6:
            return {str(self._random.choice(TEXTS)): self.value(depth - 1) for _ in range(self._random.randrange(4))}
        nested: Any = self._random.choice(TEXTS)
        for _ in range(self._random.choice((2, 49, 50, 51, 200))):
            nested = [nested] if self._random.random() < 0.5 else {"a": nested}
        return nested

    def mutated(self, data: bytes) -> bytes:
        """Return bytes with some changed, cut off, repeated or inserted."""
        made = bytearray(data[:5_000])
        for _ in range(self._random.randint(1, 4)):
            at = self._random.randrange(len(made) + 1)
            kind = self._random.randrange(4)
            if kind == 0 and at < len(made):
                made[at] = self._random.randrange(256)
            elif kind == 1:
                del made[at : at + self._random.randrange(20)]
            elif kind == 2:
                made[at:at] = made[at : at + self._random.randrange(20)]
            else:
                made[at:at] = self._random.randbytes(self._random.randrange(1, 9))
        return bytes(made)
