"""Arguments: checked against the function's signature when a call is made, rebuilt to its annotations in the child.

`task.py` and `signature.py` check before they make a message; `execution.py` rebuilds before it calls the function, and
`result.py` rebuilds what the function returned.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any, Optional, get_type_hints

from celeriac.errors import ArgumentsError, DecodeError, EncodeError, ImproperlyConfigured
from celeriac.model.foreign import keys_in_place
from celeriac.model.records import Rebuilder, has_keys, reason, rebuilder

__all__ = ["Arguments", "args_of", "kwargs_of"]

UNRESOLVED = (NameError, TypeError, AttributeError)  # raised by an annotation that cannot be evaluated
MISSING = re.compile(r"missing a required (?:keyword-only )?argument: (.*)")  # the message of `inspect`
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def args_of(args: Any) -> tuple[Any, ...]:
    """Return the positional arguments of a call as a tuple; of None, an empty one.

    Raises `ArgumentsError` for a string or a dict, which would be split into its items.

    >>> args_of([2, 2])
    (2, 2)
    """
    if isinstance(args, list | tuple):
        return tuple(args)
    if args is None:
        return ()
    if isinstance(args, Mapping):
        raise ArgumentsError(f"args must be a list or tuple, not {args!r}: for named arguments write kwargs={args!r}.")
    raise ArgumentsError(f"args must be a list or tuple, not {args!r}: for one argument write args=({args!r},).")


def kwargs_of(kwargs: Any) -> dict[str, Any]:
    """Return the named arguments of a call as a dict; of None, an empty one."""
    if kwargs is None or kwargs == {}:
        return {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise ArgumentsError(f"kwargs must be a dict of named arguments, {{'x': 2}}, not {kwargs!r}.")
    return dict(kwargs)


class Arguments:
    """A function's parameters, inspected once, so that checking a usual call costs two comparisons."""

    def __init__(self, function: Callable[..., Any], name: str, bound: bool) -> None:
        _check_function(function, name, bound)
        self.function = function
        self.name = name
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if bound:
            if not parameters:
                raise ArgumentsError(f"{name} has bind=True, but its function has no parameter: add `self`.")
            if parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
                parameters = parameters[1:]
        self.signature = signature.replace(parameters=parameters)
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        needs_keywords = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
        self._min_args = sum(p.default is p.empty for p in positional)
        self._max_args = float("inf") if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
        if needs_keywords:
            self._max_args = -1  # a call without named arguments never fits
        self._rebuilders: dict[str, Rebuilder] | None = None
        self._rebuild_result: Rebuilder | None = None
        self.keyed: frozenset[str] = frozenset()  # parameters for objects that are sent by their keys; see `prepare`

    def check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise `ArgumentsError` if the function cannot be called with these arguments."""
        if not kwargs and self._min_args <= len(args) <= self._max_args:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            why = MISSING.sub(r"\1 is missing", str(error))
            raise ArgumentsError(f"These arguments do not fit {self.name}{self.signature}: {why}.") from None

    def problems(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[str, int | str, str]]:
        """Return all that is wrong with the arguments of a call: "args" or "kwargs", an index or a name, and the fault.

        `check` raises an error about the first of them. This looks at records too, as `rebuild` does.
        """
        found: list[tuple[str, int | str, str]] = []
        places: dict[str, tuple[str, int | str]] = {}
        left, more_args, more_kwargs = dict(kwargs), False, False
        count = 0
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                more_args = True
            elif parameter.kind is parameter.VAR_KEYWORD:
                more_kwargs = True
            elif parameter.kind is not parameter.KEYWORD_ONLY and count < len(args):
                places[name] = ("args", count)
                count += 1
                if name in left and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                    del left[name]
                    found.append(("kwargs", name, f"{name} is given twice: args has it, too"))
            elif name in left and parameter.kind is not parameter.POSITIONAL_ONLY:
                del left[name]
                places[name] = ("kwargs", name)
            elif parameter.default is parameter.empty:
                found.append(("kwargs", name, f"{name} is missing"))
        if not more_args:
            found += [("args", index, "there is no parameter for it") for index in range(count, len(args))]
        if not more_kwargs:
            found += [("kwargs", name, f"there is no parameter named {name!r}") for name in left]
        return found or self._unfit(args, kwargs, places)

    def _unfit(self, args: Sequence[Any], kwargs: Mapping[str, Any],
               places: Mapping[str, tuple[str, int | str]]) -> list[tuple[str, int | str, str]]:  # fmt: skip
        """Return the arguments that cannot become the records that their annotations name."""
        if self._rebuilders is None:
            self.prepare()
        bound = self.signature.bind(*args, **kwargs)
        found = []
        for name, rebuild in (self._rebuilders or {}).items():
            if name in bound.arguments:
                try:
                    rebuild(bound.arguments[name])
                except (ValueError, TypeError) as error:
                    found.append((*places.get(name, ("kwargs", name)), f"{name} cannot be rebuilt: {reason(error)[0]}"))
        return found

    def with_name(self, error: EncodeError, args: tuple[Any, ...], kwargs: dict[str, Any]) -> EncodeError:
        """Return the error of a body that cannot be serialised, reworded to name the argument."""
        if len(error.path) < 2:
            return error
        where, step = error.path[:2]  # "[0]" for args or "[1]" for kwargs, then the index or key in it
        if where == "[0]":
            names = list(self.signature.bind_partial(*args).arguments)
            name = names[min(int(step.strip("[]")), len(names) - 1)]
        else:
            name = next(name for name in kwargs if f"[{name!r}]" == step)
        return error.within(f"Argument {name!r} of {self.name}", 2)

    def fit(self, calls: Sequence[tuple[Any, ...]]) -> bool:
        """Return whether the function can be called with each of these tuples; if not, `check` raises the reason."""
        return self._min_args <= min(map(len, calls)) and max(map(len, calls)) <= self._max_args

    def accepts(self, count: int) -> bool:
        """Return whether the function accepts this many positional arguments; there may be too few."""
        return count <= self._max_args

    def changed(self, old: tuple[Sequence[Any], Mapping[str, Any]], args: Sequence[Any] | None,
                kwargs: Mapping[str, Any] | None, before: int = 0) -> tuple[list[Any], dict[str, Any]]:  # fmt: skip
        """Return the arguments of a call that keeps the old ones where new ones are None.

        A parameter that is given in another way than before has its new argument alone. `before` is the number of
        parameters that have arguments besides the old ones.
        """
        names = [
            parameter.name if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else None
            for parameter in self.signature.parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ][before:]
        if args is not None and kwargs is None:
            covered = names[: len(args)]
            return list(args), {name: value for name, value in old[1].items() if name not in covered}
        if args is None and kwargs is not None:
            left = dict(kwargs)
            kept = [left.pop(name, value) if name is not None else value
                    for name, value in zip_longest(names[: len(old[0])], old[0])]  # fmt: skip
            return kept, left
        return list(old[0] if args is None else args), dict(old[1] if kwargs is None else kwargs)

    def prepare(self) -> None:
        """Raise `ArgumentsError` if a required argument has an annotation that can never be rebuilt.

        Called before the first message is made, not by the decorator: annotations may name classes that are defined
        after the task.
        """
        if self._rebuilders is None:
            self._rebuilders = self._make_rebuilders()

    @property
    def loads(self) -> bool:
        """Whether `rebuild` loads objects by their keys, and so may block."""
        if self._rebuilders is None:
            self.prepare()
        return bool(self.keyed)

    def with_keys(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call as they are sent: with keys for parameters in `keyed`."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:  # a part of the arguments, whose parameters are not known before the rest is there
            return tuple(keys_in_place(args)), keys_in_place(kwargs)
        for name in self.keyed.intersection(bound.arguments):
            try:
                bound.arguments[name] = keys_in_place(bound.arguments[name])
            except TypeError as error:
                raise EncodeError(f"Argument {name!r} of {self.name} cannot be sent: {error}.") from error
        return bound.args, bound.kwargs

    def rebuild(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments with plain data turned into the records that the annotations name."""
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
                    why, shows_value = reason(error)
                    cause = None if shows_value else error
                    raise DecodeError(f"The argument {name!r} of {self.name} cannot be rebuilt: {why}") from cause
        return list(bound.args), dict(bound.kwargs)

    def rebuild_result(self, value: Any) -> Any:
        """Turn a decoded return value into the type that the return annotation names.

        The value stays plain data if it does not fit (annotated `Order`, returned None) or if the annotation is
        ambiguous (`A | B`): the task succeeded, so its result must be readable.
        """
        if self._rebuild_result is None:
            self._rebuild_result = self._make_result_rebuilder()
        try:
            return self._rebuild_result(value)
        except (ValueError, TypeError):
            return value

    def _make_rebuilders(self) -> dict[str, Rebuilder]:
        hints, rebuilders = _hints(self.function), {}
        for name, parameter in self.signature.parameters.items():
            if name not in hints:
                continue
            try:
                rebuild = rebuilder(_parameter_hint(hints[name], parameter))
            except TypeError as error:
                if parameter.default is parameter.empty and parameter.kind not in VARIADIC:
                    raise ArgumentsError(
                        f"The argument {name!r} of {self.name} cannot be rebuilt from JSON: {error}. Annotate it with "
                        "one record class (or with Structs that have tag=True), or with Any for plain data."
                    ) from error
                rebuild = _raiser(error)
            if rebuild is not None:
                rebuilders[name] = rebuild
        self.keyed = frozenset(name for name in rebuilders if has_keys(hints[name]))
        return rebuilders

    def _make_result_rebuilder(self) -> Rebuilder:
        try:
            return rebuilder(_hints(self.function).get("return")) or _unchanged
        except TypeError:
            return _unchanged


def _check_function(function: Callable[..., Any], name: str, bind: bool) -> None:
    """Raise `ImproperlyConfigured` for a function that can be no task."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ImproperlyConfigured(f"{name} cannot be a task: it yields, and a task has one result. Return a list, or "
                                   "send a task for each item.")  # fmt: skip
    outer, _, _ = getattr(function, "__qualname__", "").rpartition(".")
    in_class = bool(outer) and not outer.endswith("<locals>")
    first = next(iter(inspect.signature(function).parameters), "") if in_class and not bind else ""
    if first in ("self", "cls") and not inspect.ismethod(function):
        raise ImproperlyConfigured(
            f"{name} cannot be a task: it is a method of {outer}, and a worker has no {outer} to call it on. Make it a "
            "function, a static method, or the method `run` of a subclass of Task (app.register_task)."
        )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function that can be evaluated: some name types imported under TYPE_CHECKING."""
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


def _parameter_hint(hint: Any, parameter: inspect.Parameter) -> Any:
    """Return the annotation of the whole parameter: for `*orders: Order`, a list of them."""
    if parameter.kind is parameter.VAR_POSITIONAL:
        return list[hint]
    if parameter.kind is parameter.VAR_KEYWORD:
        return dict[str, hint]
    return Optional[hint] if parameter.default is None else hint  # noqa: UP045 - not all hints have an `|`


def _raiser(reason: TypeError) -> Rebuilder:
    def refuse(value: Any) -> Any:
        raise reason

    return refuse


def _unchanged(value: Any) -> Any:
    return value
