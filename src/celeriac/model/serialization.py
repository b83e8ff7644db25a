"""Serialisation: arguments and return values to bytes and back.

JSON is extended by tags: datetime, date, time, timedelta, UUID, Decimal, bytes, set, frozenset, non-finite floats and
dicts whose keys are not strings are written as an object of one key, `{"$uuid": "…"}`, and read as the same type. A
user's dict that looks like a tag is escaped. Dataclasses, msgspec Structs, attrs classes and pydantic models are
written as plain objects, and rebuilt if an annotation names their class (`records.py`). Tuples are read as lists (as
tuples in sets and as keys), enums as their values, paths as text.

The common case costs nothing extra: scalars and flat containers go to msgspec unchanged, and decoded data is searched
for tags only if its bytes contain `"$`.
"""

from __future__ import annotations

import contextlib
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import msgspec

from celeriac.errors import DecodeError, EncodeError, ImproperlyConfigured, nearest
from celeriac.lazy import LazyModule
from celeriac.model import foreign
from celeriac.model.records import fields, is_path, is_url, opener

if TYPE_CHECKING:
    import pickle
else:
    pickle = LazyModule("pickle")

__all__ = [
    "JSON",
    "PICKLE",
    "Serializer",
    "decode",
    "decode_own",
    "dumps",
    "dumps_call",
    "dumps_calls",
    "loads",
    "prepend",
    "register_serializer",
    "serializer",
]

_encoder = msgspec.json.Encoder()
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines
_decode = msgspec.json.Decoder().decode

_ARGS, _KWARGS = itemgetter(0), itemgetter(1)  # of a call

_SCALARS = frozenset({str, int, bool, type(None)})


def dumps(value: Any) -> bytes:
    """Return a value as JSON bytes. Raises `EncodeError`, which names the part that cannot be serialised."""
    try:
        return _encode(_lower(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise _encode_error(value, error) from error


def dumps_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return the body of a call, `[args, kwargs]`, as JSON bytes: `dumps` with a shortcut for plain arguments."""
    if _SCALARS.issuperset(map(type, args)) and not kwargs:
        try:
            return _encode((args, kwargs))
        except ValueError as error:  # a lone surrogate
            raise _encode_error((args, kwargs), error) from error
    return dumps((args, kwargs))


def dumps_calls(calls: Sequence[tuple[tuple[Any, ...], dict[str, Any]]]) -> list[bytes]:
    """Return the bodies of many calls, as `dumps_call` does for one. Plain arguments take a third of the time."""
    if not any(map(_KWARGS, calls)):
        values = chain.from_iterable(map(_ARGS, calls))
        if _SCALARS.issuperset(map(type, values)):
            with contextlib.suppress(ValueError):  # a lone surrogate: `dumps_call` raises the error
                return _encode_lines(calls).split(b"\n")[:-1]  # JSON escapes newlines in strings
    return [dumps_call(args, kwargs) for args, kwargs in calls]


def prepend(value: bytes, body: bytes) -> bytes:
    """Return a JSON body (`[args, kwargs]`) with a JSON value inserted as the first argument, without decoding.

    >>> prepend(b"4", b'[[2],{}]')
    b'[[4,2],{}]'
    """
    rest = body[2:]
    return b"[[" + value + (rest if rest.startswith(b"]") else b"," + rest)


def loads(data: bytes) -> Any:
    """Return the value that `dumps` encoded. Raises `DecodeError`.

    >>> loads(dumps({"when": timedelta(hours=1), 3: {1, 2}})) == {"when": timedelta(hours=1), 3: {1, 2}}
    True
    """
    try:
        value = _decode(data)
        return _lift(value) if b'"$' in data else value
    except (msgspec.DecodeError, ValueError, ArithmeticError, TypeError, AttributeError, RecursionError) as error:
        raise DecodeError(f"The data is not JSON as Celeriac writes it: {error}") from error


# --- Lowering: from Python values to JSON values ------------------------------------------------------


def _lower(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    lowering = _LOWERINGS.get(kind)
    return lowering(value) if lowering is not None else _lower_other(value)


def _lower_list(value: Iterable[Any]) -> Any:
    return value if _SCALARS.issuperset(map(type, value)) else [_lower(item) for item in value]


def _lower_dict(value: Mapping[Any, Any]) -> Any:
    for key in value:
        if type(key) is not str or key.startswith("$"):
            return {"$dict": [[_lower_key(key), _lower(item)] for key, item in value.items()]}
    if _SCALARS.issuperset(map(type, value.values())):
        return value
    return {key: _lower(item) for key, item in value.items()}


def _lower_key(value: Any) -> Any:
    """Lower a dict key or a member of a set: it must be hashable after decoding."""
    if isinstance(value, tuple):
        return [_lower_key(item) for item in value]
    lowered = _lower(value)
    if type(lowered) in (dict, list) and opener(type(value)) is not None:
        raise TypeError(f"cannot serialise {type(value).__qualname__} as a dict key or in a set")
    return lowered


def _lower_set(value: Iterable[Any]) -> list[Any]:
    """Lower the members of a set, sorted: their own order differs from process to process, and with it the bytes."""
    lowered = [_lower_key(item) for item in value]
    kinds = set(map(type, lowered))
    lowered.sort(key=None if kinds <= {str} or kinds <= {int} else _encode)
    return lowered


def _lower_float(value: float) -> Any:
    return float(value) if math.isfinite(value) else {"$float": repr(float(value))}


_LOWERINGS: dict[type, Callable[[Any], Any]] = {
    float: _lower_float,
    list: _lower_list,
    tuple: _lower_list,
    dict: _lower_dict,
    datetime: lambda value: {"$datetime": value.isoformat()},
    date: lambda value: {"$date": value.isoformat()},
    time: lambda value: {"$time": value.isoformat()},
    timedelta: lambda value: {"$timedelta": [value.days, value.seconds, value.microseconds]},
    UUID: lambda value: {"$uuid": str(value)},
    Decimal: lambda value: {"$decimal": str(value)},
    bytes: lambda value: {"$bytes": b64encode(value).decode()},
    bytearray: lambda value: {"$bytes": b64encode(value).decode()},
    set: lambda value: {"$set": _lower_set(value)},
    frozenset: lambda value: {"$frozenset": _lower_set(value)},
}

_BASES: tuple[type[Any], ...] = (
    str, int, float, dict, list, tuple, datetime, date, time, timedelta, UUID, Decimal,
    set, frozenset, bytes, bytearray,
)  # fmt: skip


def _lower_other(value: Any) -> Any:
    """Lower a value whose type is not in `_LOWERINGS`: a record, an enum, or an instance of a subclass."""
    if isinstance(value, Enum):
        return _lower(value.value)
    if isinstance(value, type):
        raise TypeError(f"cannot serialise the class {value.__qualname__} itself")
    opens = opener(type(value))
    if opens is not None:
        return _lower(opens(value))
    for base in _BASES:
        if isinstance(value, base):
            lowering = _LOWERINGS.get(base)
            return lowering(value) if lowering is not None else base(value)
    if is_path(type(value)) or is_url(type(value)):
        return str(value)
    if (data := foreign.plain(value)) is not None:
        return _lower(data)
    raise TypeError(f"cannot serialise {type(value).__module__}.{type(value).__qualname__}")


# --- Lifting: from JSON values to Python values -------------------------------------------------------

_LIFTINGS: dict[str, Callable[[Any], Any]] = {
    "$float": float,
    "$dict": lambda pairs: {_lift_key(key): _lift(item) for key, item in pairs},
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$timedelta": lambda parts: timedelta(*parts),
    "$uuid": UUID,
    "$decimal": Decimal,
    "$bytes": b64decode,
    "$set": lambda items: {_lift_key(item) for item in items},
    "$frozenset": lambda items: frozenset(_lift_key(item) for item in items),
}


def _lift(value: Any) -> Any:
    if type(value) is list:
        return [_lift(item) for item in value]
    if type(value) is dict:
        if len(value) == 1:
            [(key, item)] = value.items()
            lifting = _LIFTINGS.get(key)
            if lifting is not None:
                return lifting(item)
        return {key: _lift(item) for key, item in value.items()}
    return value


def _lift_key(value: Any) -> Any:
    return tuple(_lift_key(item) for item in value) if type(value) is list else _lift(value)


# --- Errors -------------------------------------------------------------------------------------------


def _encode_error(value: Any, error: Exception) -> EncodeError:
    if isinstance(error, RecursionError):
        return EncodeError("The value contains itself, or is nested too deeply to serialise.")
    path, culprit = _locate(value, ())
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}"
    reason = "" if str(error) == f"cannot serialise {kind}" else str(error)
    return EncodeError.of("The value", kind, path, reason)


def _locate(value: Any, path: tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
    """Return the path to the innermost part that cannot be serialised, and the part."""
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        parts = ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = ((f"[{index}]", item) for index, item in enumerate(value))
    elif not isinstance(value, type) and (opened := fields(value)) is not None:
        parts = ((f".{name}", item) for name, item in opened.items()) if isinstance(opened, dict) else [("", opened)]
    for step, part in parts:
        try:
            _encode(_lower(part))
        except (TypeError, ValueError):
            return _locate(part, (*path, step) if step else path)
    return path, value


# --- Serialisers by name, and by content type ---------------------------------------------------------


class Serializer(NamedTuple):
    """A format: a name for `task_serializer`, and functions to encode and decode."""

    name: str
    content_type: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


def _pickle_loads(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:  # unpickling runs code that can raise anything
        raise DecodeError(f"Cannot unpickle: {error!r}") from error


def _pickle_dumps(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=4)
    except Exception as error:  # pickling runs code that can raise anything
        raise EncodeError(f"Cannot pickle: {error!r}") from error


JSON = Serializer("json", "application/json", dumps, loads)
PICKLE = Serializer("pickle", "application/x-python-pickle", _pickle_dumps, _pickle_loads)

_by_name: dict[str, Serializer] = {"json": JSON, "pickle": PICKLE}
_by_content_type: dict[str, Serializer] = {JSON.content_type: JSON, PICKLE.content_type: PICKLE}


def register_serializer(name: str, content_type: str, dumps: Callable[[Any], bytes],
                        loads: Callable[[bytes], Any]) -> None:  # fmt: skip
    """Add a serialiser. Call this before a setting or a task names it.

    Name it in `task_serializer` where tasks are sent, and in `accept_content` in the worker and where results are read.
    """
    _by_name[name] = _by_content_type[content_type] = Serializer(name, content_type, dumps, loads)


def serializer(name: str) -> Serializer:
    """Return the serialiser of this name. Raises `ImproperlyConfigured`."""
    try:
        return _by_name[name]
    except KeyError:
        raise ImproperlyConfigured(f"No serializer named {name!r}.{nearest(name, _by_name)} "
                                   f"Known: {', '.join(sorted(_by_name))}. Add your own with "
                                   "celeriac.model.serialization.register_serializer.") from None  # fmt: skip


def decode(content_type: str, data: bytes, accept: Iterable[str]) -> Any:
    """Decode bytes of a content type. Raises `DecodeError`, also if `accept` does not name its serialiser."""
    if content_type == "application/json" and "json" in accept:
        return loads(data)
    found = _by_content_type.get(content_type)
    if found is None:
        raise DecodeError(f"The content type {content_type!r} is unknown; "
                          "register it with celeriac.model.serialization.register_serializer.")  # fmt: skip
    if found.name not in accept:
        raise DecodeError(f"The content type {content_type!r} is not accepted; "
                          f"if you trust the senders, add {found.name!r} to `accept_content`.")  # fmt: skip
    return found.loads(data)


def decode_own(content_type: str, data: bytes) -> Any:
    """Decode bytes that this process has encoded."""
    return decode(content_type, data, _by_name)
