"""`celeriac demo`: the door to `celeriac.demo`."""

from __future__ import annotations

import click

from celeriac.demo import run_demo

__all__ = ["command"]


@click.command("demo")
@click.option(
    "--seconds", metavar="N", type=click.FloatRange(min=0, min_open=True), help="Give up after so long.  [default: 60]"
)
@click.option("--keep", is_flag=True, help="Keep the folder with the database, to look into it.")
def command(*, seconds: float | None, keep: bool) -> None:
    """Run a demonstration: a real worker, two kinds of work, a child killed half-way, and nothing lost.

    It needs no server and no network, and cleans up after itself.

    \b
    Examples:
      celeriac demo
      celeriac demo --keep

    \b
    Exit codes:
      0  everything ran as promised
      1  something did not
    """
    click.get_current_context().exit(run_demo(seconds=seconds, keep=keep))
