"""Options that several commands have: logging, JSON, and times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import click
import msgspec

from celeriac.model.clock import instant

__all__ = ["aware_time", "json_value", "log_options", "log_options_with"]

Command = TypeVar("Command", bound=Callable[..., Any])

LEVELS: Final = ("debug", "info", "warning", "error", "critical")


def log_options(command: Command) -> Command:
    """Add `--loglevel` and `--log-format` to a command that logs as a worker does."""
    return log_options_with("warning", "as worker_log_format says")(command)


def log_options_with(level: str, form: str) -> Callable[[Command], Command]:
    """Return a decorator that adds `--loglevel` and `--log-format` to a command, with these defaults in their help."""

    def decorate(command: Command) -> Command:
        for option in (
            click.option("--log-format", type=click.Choice(["text", "json"]),
                         help=f"Log text, or one JSON object per line.  [default: {form}]"),
            click.option("-l", "--loglevel", type=click.Choice(LEVELS, case_sensitive=False),
                         help=f"Log messages of this level and above.  [default: {level}]"),
        ):  # fmt: skip
            command = option(command)
        return command

    return decorate


def json_value(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Parse JSON of the type that the option takes: a list for --args, an object for --kwargs."""
    kind, example = (list, "'[2, 2]'") if parameter.name == "args" else (dict, "'{\"x\": 2}'")
    if value is None:
        return kind()
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"must be JSON, for example {example}: {error}") from None


def aware_time(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """Parse a time in ISO 8601 with its zone."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise click.BadParameter(f"must be an ISO 8601 time with a time zone, for example 2030-01-31T12:00:00+01:00 "
                                 f"or 2030-01-31T12:00:00Z, not {value!r}")  # fmt: skip
    try:
        instant(found, "the time")
    except ValueError:
        raise click.BadParameter(f"must be between the years 1 and 9999 in UTC, not {value!r}") from None
    return found
