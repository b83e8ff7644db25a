"""The top level of the `celeriac` command: global options and the table of subcommands."""

from __future__ import annotations

import io
import os
import sys
from typing import Final

import click

from celeriac import __version__
from celeriac.cli.lazy import APP, FOLDER, LazyGroup

__all__ = ["main"]

COMMANDS: Final = {
    "worker": "Run a worker.",
    "beat": "Run a scheduler.",
    "status": "Show workers and queues.",
    "inspect": "Query running workers.",
    "control": "Send commands to running workers.",
    "call": "Send a task.",
    "result": "Show the result of a task.",
    "explain": "Say why a task is not running, or what has happened to it.",
    "tasks": "List recent tasks; show, revoke or retry them.",
    "stats": "Show how often tasks ran, how long, and how they failed.",
    "queues": "Count messages; peek, pause and resume queues; manage dead letters.",
    "mail": "Try whether mails reach the administrators.",
    "schedules": "List, add, change, pause, remove and run what is sent periodically.",
    "hub": "Serve the broker to other machines, and make keys for them.",
    "web": "Serve the HTTP API, and make tokens for it.",
    "purge": "Delete the waiting messages of queues.",
    "backend": "Print the tables of a result backend.",
    "keys": "Make keys that sign messages.",
    "report": "Print the information that a bug report needs.",
    "demo": "Run a demonstration on this machine.",
    "completion": "Print a shell completion script.",
}


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", "spec", metavar="APP", envvar="CELERIAC_APP", show_envvar=True,
              help="The app: a module (shop), or a module and a name (shop.jobs:app).")  # fmt: skip
@click.option("--workdir", metavar="FOLDER", type=click.Path(exists=True, file_okay=False),
              help="Change to this folder first; the app's module is searched for there.")  # fmt: skip
@click.version_option(__version__, prog_name="celeriac")
@click.pass_context
def main(context: click.Context, spec: str | None, workdir: str | None) -> None:
    """Celeriac, a distributed task queue.

    -A may be given before or after the command.

    \b
    Examples:
      celeriac -A shop worker --concurrency 4
      celeriac -A shop call shop.add --args '[2, 2]' --wait
      celeriac -A shop status

    \b
    Exit codes:
      0  success
      1  failure; the reason is on stderr
      2  the command line or the app is invalid
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of a locale without UTF-8, as stderr is
    context.meta[FOLDER] = os.getcwd()
    if workdir is not None:
        os.chdir(workdir)
    context.meta[APP] = spec  # `session.py` imports the app when a command needs it
