"""`celeriac explain`: why a task is not running, or what has happened to it."""

from __future__ import annotations

import click

from celeriac.cli.documents import as_json, emit
from celeriac.cli.numbers import Number
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.documents import explanation_document

__all__ = ["command"]

UNKNOWN = 3  # the exit code where nothing is known, as that of `result` without a result


@click.command("explain")
@click.argument("id")
@click.option("--workflow", metavar="ID", help="The workflow that the task is part of, if it was not sent yet.")
@click.option("--task", metavar="NAME", help="The task's name, where the broker cannot find a message by its id.")
@click.option("-q", "--queue", metavar="NAME", help="Its queue, likewise.")
@click.option("-t", "--timeout", metavar="SECONDS", type=Number(min=0), default=2.0, show_default=True,
              help="How long workers have to reply.")  # fmt: skip
@as_json
@with_session
def command(session: Session, *, id: str, workflow: str | None, task: str | None, queue: str | None, timeout: float,
            as_json: bool) -> None:  # fmt: skip
    """Say why the task ID is not running, or what has happened to it, and what to do next.

    It asks the broker, the result backend, the history, and all workers. ID may also be a workflow.

    \b
    Examples:
      celeriac -A shop explain 0197a1b2-…
      celeriac -A shop explain 0197a1b2-… --workflow 0197a1b0-…
      celeriac -A shop explain 0197a1b2-… --json | jq -r '.reasons[0].kind'

    \b
    Exit codes:
      0  the task is known
      1  failure, for example a broker that does not answer
      2  the command line or the app is invalid
      3  nothing is known of the task
    """
    found = session.run(session.inspector(timeout=timeout).explain(id, workflow=workflow, task=task, queue=queue))
    if as_json:
        emit(explanation_document(found, session.spec))
    else:
        echo(found.summary)
        for number, reason in enumerate(found.reasons, start=1):
            echo(f"\n{number}. {reason.text}" if len(found.reasons) > 1 else f"\n{reason.text}")
            for line in reason.lines:
                echo(f"   - {line}")
            if reason.advice:
                echo(f"   {reason.advice}")
            if reason.command:
                echo(f"     {session.celeriac(reason.command)}")
        for one in found.unseen:
            echo(f"\nNot known: {one}")
    if found.status == "unknown":
        click.get_current_context().exit(UNKNOWN)
