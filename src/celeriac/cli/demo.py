"""`celeriac demo`: the command line of `celeriac.demo`."""

from __future__ import annotations

import click

from celeriac.cli.numbers import Number
from celeriac.demo import run_demo

__all__ = ["command"]


@click.command("demo")
@click.option(
    "--seconds", metavar="SECONDS", type=Number(min=0, min_open=True),
    help="Give up after this.  [default: 60]",
)
@click.option("--keep", is_flag=True, help="Keep the folder with the database and the worker's log.")
@click.option("--hub", is_flag=True, help="Let the worker reach the database over a hub (celeriac[zmq]).")
def command(*, seconds: float | None, keep: bool, hub: bool) -> None:
    """Run a demonstration: a real worker, plain and coroutine tasks, a child killed half-way, nothing lost.

    It needs no server and no network, and removes everything it created.

    \b
    Examples:
      celeriac demo
      celeriac demo --keep
      celeriac demo --hub

    \b
    Exit codes:
      0  everything ran as promised
      1  something failed; the reason is printed
    """
    click.get_current_context().exit(run_demo(seconds=seconds, keep=keep, hub=hub))
