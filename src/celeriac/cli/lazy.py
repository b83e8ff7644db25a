"""A command group that imports a command's module only when that command is called, not to list it."""

from __future__ import annotations

import errno
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.shell_completion import CompletionItem

from celeriac.cli.output import printable
from celeriac.errors import CeleriacError, ImproperlyConfigured, UnknownQueue, nearest
from celeriac.lazy import LazyModule

if TYPE_CHECKING:
    from celeriac.cli import celery_options
else:
    celery_options = LazyModule("celeriac.cli.celery_options")

__all__ = ["APP", "FOLDER", "LazyGroup", "Misuse"]

APP = "celeriac.app.app"
"""The key for the value of -A in the context's `meta`."""

FOLDER = "celeriac.folder"
"""The key for the folder in which the command was started, before --workdir."""

MISUSE = (ImproperlyConfigured, UnknownQueue)
"""Errors in the app or the command line: retrying does not help."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when the output is a file on a full disk."""


class Misuse(click.ClickException):
    """The app or the command line is invalid."""

    exit_code: ClassVar[int] = 2


class LazyGroup(click.Group):
    """A command group built from a table of names and one-line help texts.

    The command `name` is the attribute `command` of the module `celeriac.cli.name`. Any `CeleriacError` is printed as
    `Error: …`; the exit code is 2 if the app or the command line is invalid, else 1.
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
        """Find the command; for an unknown name, suggest the closest one."""
        if not ctx.resilient_parsing and args[0] not in self.table and not args[0].startswith("-"):
            known = celery_options.COMMANDS.get(args[0])
            ctx.fail(f"There is no command {args[0]!r}.{f' {known}' if known else nearest(args[0], self.table)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names from the table."""
        found = [CompletionItem(name, help=text) for name, text in self.table.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn Celeriac's errors into exit codes."""
        try:
            return super().invoke(ctx)
        except CeleriacError as error:
            raise (Misuse if isinstance(error, MISUSE) else click.ClickException)(printable(str(error))) from error
        except OSError as error:
            if error.errno in FULL:
                raise click.ClickException(f"Cannot write: {printable(str(error))}") from error
            raise
