"""Arguments: checked against the function's signature at the call, rebuilt to its annotations in the child."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Optional, get_type_hints

from celeriac.errors import ArgumentsError, DecodeError, EncodeError
from celeriac.model.records import Rebuilder, rebuilder

__all__ = ["Arguments", "args_of", "kwargs_of"]

UNRESOLVED = (NameError, TypeError, AttributeError)  # an annotation that cannot be evaluated
MISSING = re.compile(r"missing a required (?:keyword-only )?argument: (.*)")  # as `inspect` says it
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def args_of(args: Any) -> tuple[Any, ...]:
    """Return the positional arguments of a call; refuse what would be taken apart by mistake. None is none.

    >>> args_of([2, 2])
    (2, 2)
    """
    if isinstance(args, list | tuple):
        return tuple(args)
    if args is None:
        return ()
    if isinstance(args, Mapping):
        raise ArgumentsError(f"args takes a list or tuple, not {args!r}: for named arguments write kwargs={args!r}.")
    raise ArgumentsError(f"args takes a list or tuple, not {args!r}: for one argument write args=({args!r},).")


def kwargs_of(kwargs: Any) -> dict[str, Any]:
    """Return the named arguments of a call. None is none."""
    if kwargs is None or kwargs == {}:
        return {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise ArgumentsError(f"kwargs takes a dict of named arguments, {{'x': 2}}, not {kwargs!r}.")
    return dict(kwargs)


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
        self._rebuilders: dict[str, Rebuilder] | None = None
        self._rebuild_result: Rebuilder | None = None

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise `ArgumentsError` where the function could not be called so."""
        if not kwargs and self._least <= len(args) <= self._most:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            why = MISSING.sub(r"\1 is missing", str(error))
            raise ArgumentsError(f"These arguments do not fit {self.name}{self.signature}: {why}.") from None

    def blame(self, error: EncodeError, args: tuple[Any, ...], kwargs: dict[str, Any]) -> EncodeError:
        """Return the error of a body that cannot be serialised, with the argument named."""
        if len(error.path) < 2:
            return error
        where, step = error.path[:2]  # "[0]" or "[1]" for args or kwargs, and the place in those
        if where == "[0]":
            names = list(self.signature.bind_partial(*args).arguments)
            name = names[min(int(step.strip("[]")), len(names) - 1)]
        else:
            name = next(name for name in kwargs if f"[{name!r}]" == step)
        return error.within(f"Argument {name!r} of {self.name}", 2)

    def fit(self, calls: Sequence[tuple[Any, ...]]) -> bool:
        """Say whether the function can be called with each of these tuples of arguments; if not, `check` tells why."""
        return self._least <= min(map(len, calls)) and max(map(len, calls)) <= self._most

    def takes(self, count: int) -> bool:
        """Say whether so many positional arguments are not too many."""
        return count <= self._most

    def prepare(self) -> None:
        """Raise `ArgumentsError` where an argument that each call must have could never be rebuilt.

        Called once, before the first message is made: annotations may name what is defined after the task.
        """
        if self._rebuilders is None:
            self._rebuilders = self._prepared()

    def rebuild(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Turn plain data into the records that the annotations name."""
        if self._rebuilders is None:
            self.prepare()
        if not self._rebuilders:
            return args, kwargs
        bound = self.signature.bind(*args, **kwargs)
        for name, rebuild in self._rebuilders.items():
            if name in bound.arguments:
                try:
                    bound.arguments[name] = rebuild(bound.arguments[name])
                except (ValueError, TypeError) as error:
                    raise DecodeError(f"The argument {name!r} of {self.name} cannot be rebuilt: {error}") from error
        return list(bound.args), dict(bound.kwargs)

    def rebuild_result(self, value: Any) -> Any:
        """Turn a decoded return value into what the return annotation names.

        It stays plain data where it does not fit (an `Order` was promised, None returned), or where nothing tells what
        to build (`A | B`): the task has succeeded, and what it returned is to be had.
        """
        if self._rebuild_result is None:
            self._rebuild_result = self._result_prepared()
        try:
            return self._rebuild_result(value)
        except (ValueError, TypeError):
            return value

    def _prepared(self) -> dict[str, Rebuilder]:
        hints, rebuilders = _hints(self.function), {}
        for name, parameter in self.signature.parameters.items():
            if name not in hints:
                continue
            try:
                rebuild = rebuilder(_whole(hints[name], parameter))
            except TypeError as error:
                if parameter.default is parameter.empty and parameter.kind not in VARIADIC:
                    raise ArgumentsError(
                        f"The argument {name!r} of {self.name} could not be rebuilt from JSON: {error}. "
                        "Annotate it with one record (Structs with tag=True can be told apart), or Any for plain data."
                    ) from error
                rebuild = _refusal(error)
            if rebuild is not None:
                rebuilders[name] = rebuild
        return rebuilders

    def _result_prepared(self) -> Rebuilder:
        try:
            return rebuilder(_hints(self.function).get("return")) or _as_it_is
        except TypeError:
            return _as_it_is


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return those annotations of a function that can be had: some names exist for a type checker alone."""
    try:
        return get_type_hints(function)
    except UNRESOLVED:
        pass
    found: dict[str, Any] = {}
    names = getattr(inspect.unwrap(function), "__globals__", {})
    for name, annotation in getattr(function, "__annotations__", {}).items():
        with suppress(*UNRESOLVED):
            found |= get_type_hints(SimpleNamespace(__annotations__={name: annotation}), names)
    return found


def _whole(hint: Any, parameter: inspect.Parameter) -> Any:
    """Return the annotation of all that a parameter holds: of `*orders: Order`, a tuple."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        return tuple[hint, ...]
    if parameter.kind is parameter.VAR_KEYWORD:
        return dict[str, hint]
    return Optional[hint] if parameter.default is None else hint  # noqa: UP045 - not all hints have an `|`


def _refusal(reason: TypeError) -> Rebuilder:
    def refuse(value: Any) -> Any:
        raise reason

    return refuse


def _as_it_is(value: Any) -> Any:
    return value
