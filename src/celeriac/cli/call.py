"""`celeriac call`: send a task from the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

import click

from celeriac.app.app import Celeriac
from celeriac.cli import endings
from celeriac.cli.documents import as_json, emit
from celeriac.cli.numbers import Number, WholeNumber
from celeriac.cli.options import aware_time, json_value
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.errors import NotRegistered
from celeriac.inspector import TaskView

__all__ = ["command", "unknown_task"]


@click.command("call")
@click.argument("task")
@click.argument("others", nargs=-1, metavar="", type=click.UNPROCESSED)
@click.option("-a", "--args", metavar="JSON", callback=json_value, help="Positional arguments: a JSON list.")
@click.option("-k", "--kwargs", metavar="JSON", callback=json_value, help="Keyword arguments: a JSON object.")
@click.option("--countdown", metavar="SECONDS", type=Number(min=0), help="Start no sooner than this.")
@click.option("--eta", metavar="TIME", callback=aware_time, help="Start no sooner than this time (ISO 8601 with zone).")
@click.option("--expires", metavar="SECONDS", type=Number(min=0), help="Do not start after this.")
@click.option("-q", "--queue", metavar="NAME", help="Send to this queue.  [default: as routed]")
@click.option("--priority", metavar="0-9", type=WholeNumber(0, 9), help="9 is the highest.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option("--timeout", metavar="SECONDS", type=Number(min=0), help="With --wait: wait at most this long.")
@click.option("--unregistered", is_flag=True, help="Send it even if this app has no such task.")
@as_json
@with_session
def command(session: Session, /, *, task: str, others: tuple[str, ...], args: list[Any], kwargs: dict[str, Any],
            wait: bool, timeout: float | None, unregistered: bool, as_json: bool, **options: Any) -> None:  # fmt: skip
    """Send TASK and print its id, or with --wait its result. With task_always_eager, run it in this process.

    \b
    Examples:
      celeriac -A shop call shop.add --args '[2, 2]' --wait
      celeriac -A shop call shop.send --kwargs '{"to": "ann"}' --countdown 60
      celeriac -A shop call shop.report --queue slow --eta 2030-01-31T12:00:00Z

    \b
    Exit codes:
      0  the task was sent (with --wait: it succeeded, or stores no result)
      1  the task could not be sent (with --wait: it failed or was revoked)
      2  the command line or the app is invalid
      3  with --wait: no result within the time-out
      130  with --wait: interrupted by Ctrl-C; the task keeps running
    """
    if others:
        raise click.UsageError(f"Arguments of a task are JSON, so that 3 is not '3': "
                               f"celeriac call {task} --args {_as_arguments(others)}")  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    if len(given.keys() & {"countdown", "eta"}) == 2:
        raise click.UsageError("Give --countdown or --eta, not both.")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait.")
    if task not in session.app.tasks and not unregistered:
        raise unknown_task(task, session.app)
    eager = session.app.conf.task_always_eager
    if session.app.broker_url.startswith("memory:") and not eager:
        raise click.ClickException("The broker memory:// exists only within one process: no worker could receive "
                                   "this task. Set another: CELERIAC_BROKER_URL=sqlite:///celeriac.db.")  # fmt: skip
    sent = session.app.send_task(task, args, kwargs, **given)
    if eager:  # it has run in this process, and its result exists only here
        endings.conclude(session, TaskView(sent.id, outcome=sent.outcome), as_json=as_json)
    elif wait and not sent.ignored:
        endings.conclude(session, endings.wait(session, sent.id, timeout), as_json=as_json)
    elif as_json:
        emit({"id": sent.id, "task": task})
    else:
        echo(sent.id)
    if wait and sent.ignored and not eager:
        echo(f"{task} stores no result (ignore_result): not waiting.", err=True)


def _as_arguments(words: Sequence[str]) -> str:
    """Return words of a command line as they were probably meant, quoted for a shell."""
    values = []
    for word in words:
        try:
            values.append(json.loads(word))
        except ValueError:
            values.append(word)
    return shlex.quote(json.dumps(values))


def unknown_task(task: str, app: Celeriac) -> click.ClickException:
    """Return the error for a task that this app does not have, with the name that was probably meant."""
    matches = [name for name in app.tasks if name.rpartition(".")[2] == task]
    if len(matches) == 1:
        return click.ClickException(f"No task named {task!r} is registered. Did you mean {matches[0]!r}?")
    return click.ClickException(f"{NotRegistered(task, app.tasks)} To send it anyway, add --unregistered.")
