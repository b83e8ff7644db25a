"""Objects of a framework as arguments and results: some are sent as plain data, some by their key, others are refused.

`celeriac.contrib.django` says here what Django's lazy strings and model instances are. `serialization.py` asks when it
meets an object that it does not know. An object with a key is sent where its parameter is annotated with its class
(`arguments.py`), and `records.py` loads it by the key in the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["keyed", "keys_in_place", "plain", "refused", "sent_as", "sent_by_key"]


class _Kind(NamedTuple):
    base: type
    advice: str = ""  # what to do instead of sending an instance
    plain: Callable[[Any], Any] | None = None
    key: Callable[[Any], Any] | None = None
    load: Callable[[type, Any], Any] | None = None


_kinds: dict[type, _Kind] = {}


def sent_as(base: type, plain: Callable[[Any], Any]) -> None:
    """Send instances of a class, and of its subclasses, as what a function makes of them."""
    _kinds[base] = _Kind(base, plain=plain)


def sent_by_key(base: type, key: Callable[[Any], Any], load: Callable[[type, Any], Any], advice: str) -> None:
    """Send instances by their key, for parameters that are annotated with their class; refuse them elsewhere.

    `load(kind, key)` returns the instance, or raises `ValueError`. It may block.
    """
    _kinds[base] = _Kind(base, advice, key=key, load=load)


def refused(base: type, advice: str) -> None:
    """Refuse instances of a class with some advice."""
    _kinds[base] = _Kind(base, advice)


def plain(value: Any) -> Any:
    """Return the plain data of an object, or None if its class is not known. Raises `TypeError` if it is refused."""
    for base, kind in _kinds.items():
        if isinstance(value, base):
            if kind.plain is None:
                raise TypeError(kind.advice)
            return kind.plain(value)
    return None


def keyed(kind: type) -> Callable[[Any], Any] | None:
    """Return what loads an instance of a class by its key; None if its instances have no key."""
    for base, known in _kinds.items():
        if known.load is not None and issubclass(kind, base):
            load = known.load
            return lambda key: load(kind, key)
    return None


def keys_in_place(value: Any) -> Any:
    """Return a value, or a container, with keys in the place of objects that have one."""
    if isinstance(value, list | tuple):
        return [keys_in_place(item) for item in value]
    if isinstance(value, Mapping):
        return {name: keys_in_place(item) for name, item in value.items()}
    for base, kind in _kinds.items():
        if kind.key is not None and isinstance(value, base):
            return kind.key(value)
    return value
