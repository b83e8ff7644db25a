"""Workflow output of `celeriac tasks`: the tasks in order, and how many have ended."""

from __future__ import annotations

import click

from celeriac.canvas.workflow import Workflow
from celeriac.cli.documents import emit
from celeriac.cli.output import echo
from celeriac.cli.session import Session
from celeriac.cli.tables import duration, show, when
from celeriac.documents import workflow_document
from celeriac.errors import WorkflowError

__all__ = ["find_workflow", "show_workflow"]


def find_workflow(session: Session, id: str) -> Workflow:
    """Return a workflow by its id, or fail with a message that says what to do."""
    try:
        return session.app.workflow(id)
    except WorkflowError as error:
        raise click.ClickException(str(error)) from None


def show_workflow(session: Session, id: str, state: str | None, as_json: bool) -> None:
    """Show the tasks of a workflow; with `state`, only those in that state."""
    workflow = find_workflow(session, id)
    views = workflow.steps()
    ended = sum(view.outcome is not None and view.outcome.ready for view in views)
    shown = [view for view in views if state in (None, view.state)]
    if as_json:
        document = workflow_document(workflow, views)
        emit({**document, "tasks": [task for task in document["tasks"] if state in (None, task["state"])]})
        return
    rows = []
    for view in shown:
        outcome = view.outcome
        note = ""
        if outcome is not None and outcome.cause is not None:
            note = f"not run because of {outcome.cause}"
        elif outcome is not None and outcome.failure is not None:
            note = f"{outcome.failure.type}: {outcome.failure.message}"
        took = duration(outcome.runtime) if outcome is not None and outcome.cause is None else ""
        rows.append((view.id, view.task, view.state, took, when(outcome.done_at) if outcome is not None else "", note))
    show(["id", "task", "state", "took", "ended", "note"], rows, empty="No task is in this state.", numbers=["took"])
    echo(f"{ended} of {len(views)} tasks have ended.")
