"""`celeriac result`: what became of one task."""

from __future__ import annotations

import click

from celeriac.cli import endings
from celeriac.cli.documents import as_json
from celeriac.cli.session import Session, with_session

__all__ = ["command"]


@click.command("result")
@click.argument("id")
@click.option("--traceback", is_flag=True, help="Print the traceback of a task that failed, too.")
@click.option("--wait", is_flag=True, help="Wait for the end of the task.")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(min=0), help="With --wait: no longer than this.")
@as_json
@with_session
def command(session: Session, *, id: str, traceback: bool, wait: bool, timeout: float | None,
            as_json: bool) -> None:  # fmt: skip
    """Print what the task ID returned, or why it failed.

    \b
    Examples:
      celeriac -A shop result 0197a1b2-…
      celeriac -A shop result 0197a1b2-… --wait --timeout 30
      celeriac -A shop result 0197a1b2-… --json | jq .state

    \b
    Exit codes:
      0  the task has succeeded
      1  it has failed, or was revoked
      2  the command line, or the app that it names, is wrong
      3  there is no result (yet)
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait.")
    view = session.run(endings.find(session, id))
    if wait and (view.outcome is None or not view.outcome.ready):
        view = endings.wait(session, id, timeout)
    endings.conclude(session, view, as_json=as_json, traceback=traceback)
