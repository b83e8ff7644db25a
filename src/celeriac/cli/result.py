"""`celeriac result`: the result of one task."""

from __future__ import annotations

import click

from celeriac.cli import endings
from celeriac.cli.documents import as_json
from celeriac.cli.numbers import Number
from celeriac.cli.session import Session, with_session

__all__ = ["command"]


@click.command("result")
@click.argument("id")
@click.option("--traceback", is_flag=True, help="If the task failed, also print its traceback.")
@click.option("--wait", is_flag=True, help="Wait for the task to end.")
@click.option("--timeout", metavar="SECONDS", type=Number(min=0), help="With --wait: wait at most this long.")
@as_json
@with_session
def command(session: Session, *, id: str, traceback: bool, wait: bool, timeout: float | None,
            as_json: bool) -> None:  # fmt: skip
    """Print the return value of the task ID, or why it failed.

    \b
    Examples:
      celeriac -A shop result 0197a1b2-…
      celeriac -A shop result 0197a1b2-… --wait --timeout 30
      celeriac -A shop result 0197a1b2-… --json | jq .state

    \b
    Exit codes:
      0  the task succeeded
      1  the task failed or was revoked
      2  the command line or the app is invalid
      3  there is no result (yet)
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait.")
    view = session.run(endings.find(session, id))
    if wait and (view.outcome is None or not view.outcome.ready):
        view = endings.wait(session, id, timeout)
    endings.conclude(session, view, as_json=as_json, traceback=traceback)
