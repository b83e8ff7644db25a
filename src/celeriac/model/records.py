"""Records: how they are turned into plain data, and rebuilt from it.

A record is an instance of a dataclass, a msgspec Struct, an attrs class, or a model or dataclass of pydantic.
`serialization.py` asks for the `opener` of a value's class, `arguments.py` for the `rebuilder` of an annotation. Each
is made once per class or annotation, and then raises if that cannot be supported. Enums, tuples, NamedTuples and paths,
which JSON does not keep either, are rebuilt by annotation too, also inside TypedDicts.

pydantic is optional. It is never imported here: a user's class that needs it has imported it already.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum, Flag
from functools import cache, lru_cache
from inspect import signature
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict
from uuid import UUID

import msgspec

from celeriac.model.foreign import keyed

__all__ = ["Opener", "Rebuilder", "fields", "has_keys", "is_path", "is_url", "opener", "reason", "rebuilder"]

Opener = Callable[[Any], Any]
Rebuilder = Callable[[Any], Any]


# --- Opening: to plain data ----------------------------------------------------------------------------


def fields(value: Any) -> Any:
    """Return the data of a record, or None for any other value.

    The data is a dict of the fields, by the names that the constructor expects; a list for a Struct that is encoded as
    one; any value for a root model of pydantic.
    """
    opens = opener(type(value))
    return opens(value) if opens is not None else None


def _opener(kind: type) -> Opener | None:
    if _is_model(kind):
        return _model_opener(kind)
    if hasattr(kind, "__dataclass_fields__"):
        return _attributes([field.name for field in dataclasses.fields(kind)])
    if issubclass(kind, msgspec.Struct):
        return _struct_opener(kind)
    if hasattr(kind, "__attrs_attrs__"):
        return _attributes([field.name for field in kind.__attrs_attrs__])
    return None


opener: Callable[[type], Opener | None] = lru_cache(maxsize=1024)(_opener)
"""Return the function that gives the data of a class's instances, or None if they are not records."""


def is_path(kind: type) -> bool:
    """Return whether a class is one of paths, which are sent as text. There is none before `pathlib` is imported."""
    paths = sys.modules.get("pathlib")
    return paths is not None and issubclass(kind, paths.PurePath)


def is_url(kind: type) -> bool:
    """Return whether a class is one of pydantic's URLs, which are sent as text."""
    return hasattr(kind, "unicode_string")


def _attributes(names: list[str]) -> Opener:
    return lambda value: {name: getattr(value, name) for name in names if hasattr(value, name)}


def _struct_opener(kind: type[msgspec.Struct]) -> Opener:
    config, names = kind.__struct_config__, kind.__struct_fields__
    if config.array_like:
        head = [] if config.tag is None else [config.tag]
        return lambda value: [*head, *(getattr(value, name) for name in names)]
    pairs = list(zip(names, kind.__struct_encode_fields__, strict=True))
    tag = {} if config.tag is None else {str(config.tag_field): config.tag}

    def opens(value: Any) -> dict[str, Any]:
        found = {encoded: item for name, encoded in pairs if (item := getattr(value, name)) is not msgspec.UNSET}
        return {**tag, **found}

    return opens


def _model_opener(kind: type) -> Opener:
    if hasattr(kind, "model_dump"):
        return lambda value: value.model_dump(round_trip=True)
    adapter = _pydantic().TypeAdapter(kind)
    return lambda value: adapter.dump_python(value, round_trip=True)


# --- Rebuilding: from plain data ----------------------------------------------------------------------

RESTORED = (Enum, tuple)
"""Classes besides records and paths whose values are sent as something else: text, a value, a list."""

SENT_AS_BASE: tuple[Any, ...] = (str, int, float, bytes, datetime, date, timedelta, UUID, Decimal)
"""Classes whose subclasses are sent as they are, without the name of the subclass."""


def rebuilder(hint: Any) -> Rebuilder | None:
    """Return the function that turns plain data into the annotated type, or None if that is plain data.

    Raises `TypeError` if there can be no such function, as for `A | B` of two dataclasses, which JSON cannot
    distinguish. The function raises `ValueError` or `TypeError` for data that does not fit.
    """
    classes = list(_classes(hint))
    has_record = any(_is_record(kind) for kind in classes)
    if not has_record and not any(issubclass(kind, RESTORED) or is_path(kind) for kind in classes):
        return None
    try:
        # TypedDicts are not left to pydantic either, which refuses them before Python 3.12.
        is_mixed = any(_is_foreign(kind) or is_typeddict(kind) for kind in classes)
        if any(_is_validated(kind) for kind in classes) and not is_mixed:
            return _validator(_mapped(hint, lambda kind: kind))
        buildable = _mapped(hint, _buildable)
        msgspec.msgpack.Decoder(buildable)  # raises if any part cannot be built
    except (TypeError, NameError, RuntimeError) as error:  # some errors of pydantic are RuntimeErrors
        if not has_record:
            return None  # such as `str | Path`: the text is a valid value; or `list | tuple`
        raise TypeError(str(error).partition("\n")[0]) from error
    return lambda value: msgspec.convert(value, buildable, dec_hook=_build)


def has_keys(hint: Any) -> bool:
    """Return whether values of an annotation consist of, or contain, objects that are sent by their keys."""
    return any(keyed(kind) is not None for kind in _classes(hint))


def _classes(hint: Any, outer: tuple[Any, ...] = ()) -> Iterator[type]:
    """Yield the classes that values of an annotation can consist of, with those of the fields of TypedDicts."""
    origin = get_origin(hint)
    if origin is type or origin is collections.abc.Callable:
        return
    kind = origin or hint
    if isinstance(kind, type):
        yield kind
        if kind not in outer and (is_typeddict(kind) or (issubclass(kind, tuple) and kind is not tuple)):
            for part in _field_hints(kind):
                yield from _classes(part, (*outer, kind))
    for part in get_args(hint):
        yield from _classes(part, outer)


def _field_hints(kind: type) -> list[Any]:
    try:
        return list(get_type_hints(kind).values())
    except (NameError, TypeError):  # it names types that are imported under TYPE_CHECKING
        return []


def _is_record(kind: type) -> bool:
    return _is_validated(kind) or hasattr(kind, "__dataclass_fields__") or _is_foreign(kind)


def _is_validated(kind: type) -> bool:
    return _is_model(kind) or is_url(kind)


def _is_foreign(kind: type) -> bool:
    """Return whether a class is a record that pydantic does not support, or has instances that are sent by key."""
    return issubclass(kind, msgspec.Struct) or hasattr(kind, "__attrs_attrs__") or keyed(kind) is not None


def _is_model(kind: type) -> bool:
    return hasattr(kind, "__pydantic_fields__")


def _mapped(hint: Any, change: Callable[[Any], Any]) -> Any:
    """Return an annotation with `change` applied to each class in it, and with Sequence instead of Iterable."""
    origin, parts = get_origin(hint), get_args(hint)
    changed = tuple(_mapped(part, change) for part in parts)
    if not parts:
        return change(hint) if isinstance(hint, type) else hint
    if origin is collections.abc.Iterable:
        origin = collections.abc.Sequence
    elif changed == parts:
        return hint
    return Union[changed] if origin in (Union, UnionType) else origin[changed]  # noqa: UP007


def _build(kind: Any, value: Any) -> Any:
    """Build a value of a type that msgspec does not support; msgspec calls this."""
    construct = kind
    if isinstance(kind, type):
        if _is_validated(kind):
            return _validator(kind)(value)
        if (load := keyed(kind)) is not None:
            return load(value)
        if isinstance(value, kind):
            return value
        if isinstance(kind, _StandIn):
            return kind.build(value)
        if issubclass(kind, SENT_AS_BASE) or is_path(kind):
            return construct(value)
    raise TypeError(f"cannot build {kind!r}")


# --- Models -------------------------------------------------------------------------------------------


def _pydantic() -> Any:
    return sys.modules["pydantic"]


@cache
def _validator(hint: Any) -> Rebuilder:
    """Return the function that lets pydantic build an annotation."""
    for kind in _classes(hint):
        for name, field in getattr(kind, "__pydantic_fields__", {}).items():
            if field.exclude and field.is_required():
                raise TypeError(f"{kind.__name__}.{name} is excluded from serialisation: give it a default")
    adapter, to_json = _pydantic().TypeAdapter(hint), sys.modules["pydantic_core"].to_json
    names: dict[str, Any] = {}
    if "by_name" in signature(adapter.validate_python).parameters:  # since pydantic 2.11
        names = {"by_alias": True, "by_name": True}  # fields are sent by name; other senders may use aliases

    def rebuild(value: Any) -> Any:
        try:
            return adapter.validate_python(value, **names)
        except ValueError as error:
            refused = error
        try:  # as JSON, where a strict model accepts a list for a tuple and a value for an enum
            text = to_json(value)
        except ValueError:  # bytes that are not UTF-8
            raise refused from None
        return adapter.validate_json(text, **names)

    return rebuild


def reason(error: Exception) -> tuple[str, bool]:
    """Return why data was refused, and whether the error itself shows the data.

    Errors of pydantic do. The reason never does: it is stored, logged and shown, and the data may be secret.
    """
    details: Any = getattr(error, "errors", None)
    if not callable(details):
        return str(error), False
    found = details(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'value'}: {one['msg']}" for one in found), True


# --- Classes that msgspec cannot build ----------------------------------------------------------------


class _StandIn(type):
    """Metaclass of classes that stand in an annotation for one that msgspec cannot build; `_build` lets them build."""

    kind: type

    @abstractmethod
    def build(cls, value: Any) -> Any:
        """Return an instance of the class. Raises `ValueError` or `TypeError` for data that does not fit."""

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, cls.kind)


class _WithoutInit(_StandIn):
    """For dataclasses that must be built without `__init__`: their InitVars were not kept."""

    mirror: type[msgspec.Struct]  # the same fields, types and defaults

    def build(cls, value: Any) -> Any:
        found = msgspec.convert(value, cls.mirror, dec_hook=_build)
        made: Any = object.__new__(cls.kind)
        for name in cls.mirror.__struct_fields__:
            if (item := getattr(found, name)) is not msgspec.UNSET:
                object.__setattr__(made, name, item)
        return made


class _OfAnyValues(_StandIn):
    """For flags, whose members can be combined, and for enums with values other than text or whole numbers."""

    kind: type[Enum]

    def build(cls, value: Any) -> Any:
        for member in cls.kind:
            if _listed(member.value) == value:
                return member
        return cls.kind(value)


def _listed(value: Any) -> Any:
    """Return a value with lists instead of tuples, as it arrives."""
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


@cache
def _buildable(kind: Any) -> Any:
    """Return the stand-in for a class that msgspec cannot build, or the class itself."""
    if issubclass(kind, Enum):
        values = {type(member.value) for member in kind}
        if issubclass(kind, Flag) or values not in ({str}, {int}):
            return _OfAnyValues(kind.__name__, (), {"kind": kind})
        return kind
    declared = getattr(kind, "__dataclass_fields__", {}).values()
    if not any(field._field_type is dataclasses._FIELD_INITVAR for field in declared):  # type: ignore[attr-defined]
        return Any if getattr(kind, "_is_protocol", False) else kind
    types = get_type_hints(kind)
    mirror = msgspec.defstruct(
        kind.__name__,
        [(field.name, _mapped(types[field.name], _buildable), _default(field)) for field in dataclasses.fields(kind)],
        kw_only=True,
    )
    return _WithoutInit(kind.__name__, (), {"kind": kind, "mirror": mirror})


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return msgspec.field(default_factory=field.default_factory)
    if field.default is not dataclasses.MISSING:
        return field.default
    return msgspec.NODEFAULT if field.init else msgspec.UNSET
