"""A group of commands whose modules are imported when the command is called, and not to list them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import click
from click.shell_completion import CompletionItem

from celeriac.errors import CeleriacError, ImproperlyConfigured, UnknownQueue, nearest

__all__ = ["APP", "LazyGroup", "Misuse"]

APP = "celeriac.app.app"
"""The key of what -A names, in the context's `meta`."""

WRONG = (ImproperlyConfigured, UnknownQueue)
"""Errors of the app or the command line: to try again will not help."""


NOT_HERE = {
    "beat": "Schedules are not part of this version.",
    "multi": "Let systemd, or what runs your containers, start several workers: docs/howto/deploy.md.",
}
"""Commands of Celery's, and what is to be said of them."""


class Misuse(click.ClickException):
    """The app or the command line is wrong."""

    exit_code: ClassVar[int] = 2


class LazyGroup(click.Group):
    """A group made from a table: name of the command, its one-line help.

    The command `name` is the attribute `command` of the module `celeriac.cli.name`. Celeriac's errors end any of them
    as `Error: …`, with exit code 2 where the app or the command line is wrong, else 1.
    """

    def __init__(self, *args: Any, table: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the table's order."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self.table:
            return None
        command: click.Command = importlib.import_module(f"celeriac.cli.{cmd_name}").command
        return command

    def resolve_command(self, ctx: click.Context,
                        args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:  # fmt: skip
        """Find the command that is called; of a wrong name, say which was meant."""
        if not ctx.resilient_parsing and args[0] not in self.table and not args[0].startswith("-"):
            hint = f" {NOT_HERE[args[0]]}" if args[0] in NOT_HERE else nearest(args[0], self.table)
            ctx.fail(f"There is no command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete from the table."""
        found = [CompletionItem(name, help=text) for name, text in self.table.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except CeleriacError as error:
            raise (Misuse if isinstance(error, WRONG) else click.ClickException)(str(error)) from error
