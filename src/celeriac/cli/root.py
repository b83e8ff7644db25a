"""The root of the command: its own options, and the table of its commands."""

from __future__ import annotations

import os
from typing import Final

import click

from celeriac import __version__
from celeriac.cli.lazy import APP, LazyGroup

__all__ = ["main"]

COMMANDS: Final = {
    "worker": "Run a worker.",
    "status": "Show workers and queues.",
    "inspect": "Ask workers what they do and know.",
    "control": "Tell workers what to do.",
    "call": "Send a task.",
    "result": "Show what became of a task.",
    "tasks": "List tasks that have ended; show or revoke one.",
    "queues": "Count, look into, pause and resume queues; dead letters.",
    "purge": "Drop the messages that wait in queues.",
    "report": "Print what a bug report needs.",
    "demo": "Run a demonstration, on this machine alone.",
    "completion": "Print the script that completes commands in a shell.",
}


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", "spec", metavar="APP", envvar="CELERIAC_APP", show_envvar=True,
              help="The app: its module (shop), or module and name (shop.jobs:app).")  # fmt: skip
@click.option("--workdir", metavar="FOLDER", type=click.Path(exists=True, file_okay=False),
              help="Go there first; modules are looked for there.")  # fmt: skip
@click.version_option(__version__, prog_name="celeriac")
@click.pass_context
def main(context: click.Context, spec: str | None, workdir: str | None) -> None:
    """Celeriac, a distributed task queue.

    -A may stand before the command or after it.

    \b
    Examples:
      celeriac -A shop worker --concurrency 4
      celeriac -A shop call shop.add --args '[2, 2]' --wait
      celeriac -A shop status

    \b
    Exit codes:
      0  it is done
      1  it could not be done; the reason is on stderr
      2  the command line, or the app that it names, is wrong
    """
    if workdir is not None:
        os.chdir(workdir)
    context.meta[APP] = spec  # `session.py` makes the app of it, if the command needs one
