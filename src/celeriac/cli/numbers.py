"""Types of options that are numbers within bounds. Their errors say which number is wanted."""

from __future__ import annotations

from typing import Any

import click

from celeriac.model.clock import seconds

__all__ = ["Number", "WholeNumber"]


class _Worded(click.ParamType):  # type: ignore[type-arg]  # not subscriptable in older versions of click
    """Says what is wanted in plain words, where click's own error has a `float range` or an `integer range`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number. Raises `click.BadParameter`."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            assert isinstance(self, Number | WholeNumber)
            self.fail(_wanted(value, self), param, ctx)


class Number(_Worded, click.FloatRange):
    """A number of seconds."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number. Raises `click.BadParameter`, also for `inf` and `nan`."""
        found = super().convert(value, param, ctx)
        try:
            return seconds(found)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds within a thousand years.", param, ctx)


class WholeNumber(_Worded, click.IntRange):
    """A whole number."""

    name = "whole number"


def _wanted(value: Any, kind: Number | WholeNumber) -> str:
    """Return the error for a value that is none of these numbers.

    >>> _wanted("two", WholeNumber(min=1))
    "'two' is not a whole number of at least 1."
    >>> _wanted(11, Number(0, 9))
    '11 is not a number from 0 to 9.'
    >>> _wanted("-1", Number(min=0, min_open=True))
    "'-1' is not a number above 0."
    """
    if kind.min is not None and kind.max is not None:
        bounds = f" from {kind.min} to {kind.max}"
    elif kind.min is not None:
        bounds = f" above {kind.min}" if kind.min_open else f" of at least {kind.min}"
    else:
        bounds = ""
    return f"{value!r} is not a {kind.name}{bounds}."
