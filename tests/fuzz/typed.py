"""Values of declared types with hostile contents: what passes a decoder, and was never meant."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from tests.fuzz.mutations import Mutator

__all__ = ["Typed"]

INTEGERS = (0, 1, 2, -1, 7, 10**6, 2**31, 2**53, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e10, 1e300, -1e300, math.nan, math.inf, -math.inf)


class Typed:
    """Makes values of types; the texts and bytes in them are chosen from these, or changed."""

    def __init__(self, seed: int, texts: Sequence[str], data: Sequence[bytes]) -> None:
        self._random = random.Random(seed)
        self._mutator = Mutator(seed)
        self._texts = texts
        self._data = data

    def data(self, decode: Callable[..., Any]) -> bytes:
        """Return bytes in MessagePack for a decoder: of its type, as a rule."""
        owner: Any = getattr(decode, "__self__", None)
        kind = inspect.type_info(owner.type) if owner is not None else inspect.AnyType()
        try:
            made = msgspec.msgpack.encode(self.value(kind))
        except (ValueError, OverflowError, RecursionError):
            made = b"\xc0"
        return self._mutator.mutated(made) if self._random.random() < 0.2 else made

    def value(self, kind: inspect.Type) -> Any:
        """Return a value of a type; one of another type, now and then."""
        if self._random.random() < 0.02:
            return self._mutator.value(2)
        match kind:
            case inspect.NoneType():
                return None
            case inspect.BoolType():
                return self._random.random() < 0.5
            case inspect.IntType():
                return self._random.choice(INTEGERS)
            case inspect.FloatType():
                return self._random.choice(FLOATS)
            case inspect.StrType():
                return self._random.choice(self._texts)
            case inspect.BytesType():
                found = self._random.choice(self._data)
                return self._mutator.mutated(found) if self._random.random() < 0.3 else found
            case inspect.UnionType(types=types):
                return self.value(self._random.choice(types))
            case inspect.EnumType(cls=cls):
                return self._random.choice(list(cls)).value
            case inspect.LiteralType(values=values):
                return self._random.choice(values)
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
                return [self.value(item) for _ in range(self._random.randrange(4))]
            case inspect.SetType(item_type=item) | inspect.FrozenSetType(item_type=item):
                return [self.value(item) for _ in range(self._random.randrange(3))]
            case inspect.TupleType(item_types=items):
                return [self.value(item) for item in items]
            case inspect.DictType(key_type=key, value_type=value):
                return {str(self.value(key)): self.value(value) for _ in range(self._random.randrange(3))}
            case inspect.NamedTupleType(fields=fields):
                return [self.value(field.type) for field in fields]
            case inspect.StructType(fields=fields, array_like=True):
                return [self.value(field.type) for field in fields]
            case inspect.StructType(fields=fields) | inspect.DataclassType(fields=fields):
                return {field.encode_name: self.value(field.type) for field in fields}
        return self._mutator.value(2)
