"""What the commands `tasks` and `stats` share: the history of the app, and filters of attempts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from celeriac.cli.session import Session
from celeriac.model.filters import Filter, parse_filter
from celeriac.ports.history import History

__all__ = ["filter_options", "filter_text", "history_of", "parsed"]

Command = TypeVar("Command", bound=Callable[..., Any])

NAMES = ("task", "queue", "error", "since", "until")


def filter_options(command: Command) -> Command:
    """Add the options that restrict what is shown of the history."""
    for option in (
        click.option("--filter", "text", metavar="FILTER", help="As in 'task:shop.* state:failure runtime:>5s'."),
        click.option("--until", metavar="WHEN", help="Only what ended before: 1h (ago), 2026-11-29."),
        click.option("--since", metavar="WHEN", help="Only what ended since: 2h (ago), 2026-11-29, 2026-11-29T12:00."),
        click.option("--error", metavar="CLASS", help="Only failures with this exception: ValueError."),
        click.option("-q", "--queue", metavar="NAME", help="Only of this queue."),
        click.option("--task", metavar="NAME", help="Only this task; * stands for any text."),
    ):
        command = option(command)
    return command


def filter_text(options: dict[str, str | None]) -> str:
    """Return the options as one filter; empty if none was given."""
    parts = [f'{name}:"{value}"' for name in NAMES if (value := options.get(name))]
    return " ".join([*parts, options.get("text") or ""]).strip()


def parsed(session: Session, text: str) -> Filter:
    """Return the filter that a text describes, or fail with what is wrong."""
    try:
        return parse_filter(text, session.app.clock.now())
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def history_of(session: Session) -> History:
    """Return the history of the app, or fail with a message that says what to set."""
    history = session.app.history
    if history is None:
        why = ("the setting `history` is 'off'" if session.app.conf.history == "off"
               else "its result backend keeps none. Set `history_url`, as in sqlite:///history.db")  # fmt: skip
        raise click.ClickException(f"This app keeps no history: {why}.")
    return history
