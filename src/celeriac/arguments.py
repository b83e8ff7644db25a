"""Arguments: checked against the function's signature at the call, rebuilt to its annotations in the child."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from celeriac.errors import ArgumentsError, DecodeError

__all__ = ["Arguments"]


class Arguments:
    """What a function takes, worked out once, so that checking the usual call costs two comparisons."""

    def __init__(self, function: Callable[..., Any], name: str, bound: bool) -> None:
        self.function = function
        self.name = name
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if bound:
            if not parameters:
                raise ArgumentsError(f"{name} has bind=True, and takes no `self` to be bound to.")
            parameters = parameters[1:]
        self.signature = signature.replace(parameters=parameters)
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        needs_keywords = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
        self._least = sum(p.default is p.empty for p in positional)
        self._most = float("inf") if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
        if needs_keywords:
            self._most = -1  # no call of positional arguments alone can be right
        self._rebuilders: dict[str, Callable[[Any], Any]] | None = None
        self._rebuild_result: Callable[[Any], Any] | None = None

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise `ArgumentsError` where the function could not be called so."""
        if not kwargs and self._least <= len(args) <= self._most:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentsError(f"{self.name}{self.signature} cannot be called so: {error}.") from None

    def fit(self, calls: Sequence[tuple[Any, ...]]) -> bool:
        """Say whether the function can be called with each of these tuples of arguments; if not, `check` tells why."""
        return self._least <= min(map(len, calls)) and max(map(len, calls)) <= self._most

    def takes(self, count: int) -> bool:
        """Say whether so many positional arguments are not too many."""
        return count <= self._most

    def rebuild(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Turn plain data into the dataclasses, Structs and models that the annotations name."""
        rebuilders = self._rebuilders if self._rebuilders is not None else self._prepare()
        if not rebuilders:
            return args, kwargs
        bound = self.signature.bind(*args, **kwargs)
        for name, rebuild in rebuilders.items():
            if name in bound.arguments:
                try:
                    bound.arguments[name] = rebuild(bound.arguments[name])
                except (msgspec.ValidationError, ValueError, TypeError) as error:
                    raise DecodeError(f"The argument {name!r} of {self.name} cannot be rebuilt: {error}") from error
        return list(bound.args), dict(bound.kwargs)

    def rebuild_result(self, value: Any) -> Any:
        """Turn a decoded return value into what the return annotation names."""
        if self._rebuilders is None:
            self._prepare()
        return self._rebuild_result(value) if self._rebuild_result is not None else value

    def _prepare(self) -> dict[str, Callable[[Any], Any]]:
        try:
            hints = get_type_hints(self.function)
        except (NameError, TypeError, AttributeError):  # annotations that exist for a type checker alone
            hints = {}
        self._rebuild_result = _rebuilder(hints.pop("return", None))
        kinds = {p.name: p.kind for p in self.signature.parameters.values()}
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self._rebuilders = {
            name: rebuild
            for name, hint in hints.items()
            if kinds.get(name, inspect.Parameter.VAR_KEYWORD) not in variadic
            and (rebuild := _rebuilder(hint)) is not None
        }
        return self._rebuilders


def _rebuilder(hint: Any) -> Callable[[Any], Any] | None:
    """Return what turns plain data into `hint`, or None where plain data is what it asks for."""
    if not _mentions_record(hint):
        return None
    if hasattr(hint, "__pydantic_fields__"):
        validate: Callable[[Any], Any] = hint.model_validate
        return validate

    def hook(kind: type, value: Any) -> Any:
        if hasattr(kind, "__pydantic_fields__"):
            return kind.model_validate(value)  # type: ignore[attr-defined]
        raise TypeError(f"cannot rebuild {kind!r}")

    def rebuild(value: Any) -> Any:
        return msgspec.convert(value, hint, dec_hook=hook)

    return rebuild


def _mentions_record(hint: Any) -> bool:
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return (
            hasattr(hint, "__dataclass_fields__")
            or hasattr(hint, "__pydantic_fields__")
            or hasattr(hint, "__attrs_attrs__")
            or issubclass(hint, msgspec.Struct)
        )
    return get_origin(hint) is not None and any(_mentions_record(part) for part in get_args(hint))
