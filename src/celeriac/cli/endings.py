"""How `call --wait` and `result` tell what became of a task, and with which exit code they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from celeriac import states
from celeriac.cli.documents import emit, outcome_document, value_of
from celeriac.cli.session import Session
from celeriac.errors import NotSupported
from celeriac.inspector import TaskView
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability

__all__ = ["conclude", "document", "find", "tell_revoked", "wait"]

NOT_READY: Final = 3  # exit codes
INTERRUPTED: Final = 130  # as of a command that SIGINT has ended


async def find(session: Session, id: str) -> TaskView:
    """Return what is known of a task. Raises `NotSupported` over `rpc://`."""
    return (await session.inspector().find([id]))[id]


async def _unknown(session: Session, ids: Sequence[str]) -> list[str]:
    """Return those ids of which nothing is known; none where that cannot be told (`Ability.KNOW_IDS`, `rpc://`)."""
    if Ability.KNOW_IDS in session.app.broker.lacks:
        return []
    try:
        views = await session.inspector().find(ids)
    except NotSupported:
        return []
    return [id for id, view in views.items() if not view.known]


def tell_revoked(session: Session, count: int, named: Sequence[str]) -> None:
    """Say how many tasks were revoked, and which of those that were named nobody knows."""
    click.echo(f"Revoked {count:,}.")
    for id in session.run(_unknown(session, named)):
        click.echo(f"Nothing is known here of {id}: it is mistyped, or was forgotten, or is yet to be sent.")


def wait(session: Session, id: str, timeout: float | None) -> TaskView:
    """Wait for the end of a task, at most `timeout` seconds (None: for ever), and return what is known then.

    Ctrl-C ends the command, not the task, and says so.
    """
    try:
        return session.run(_wait(session, id, timeout))
    except KeyboardInterrupt:
        later = "" if session.app.sends_outcomes else f": {session.celeriac(f'result {id}')}"
        click.echo(f"Stopped waiting; the task goes on{later}", err=True)
        return click.get_current_context().exit(INTERRUPTED)


async def _wait(session: Session, id: str, timeout: float | None) -> TaskView:
    clock = session.app.clock
    deadline = None if timeout is None else clock.monotonic() + timeout
    while True:
        left = 3600.0 if deadline is None else max(1e-9, deadline - clock.monotonic())
        outcome = (await session.app.backend.afetch([id], wait=left)).get(id)
        if outcome is not None or (deadline is not None and clock.monotonic() >= deadline):
            break
    return TaskView(id, outcome=outcome) if session.app.sends_outcomes else await find(session, id)


def conclude(session: Session, view: TaskView, *, as_json: bool, traceback: bool = False) -> None:
    """Print what became of a task, and exit with 0 (succeeded), 1 (failed, revoked) or 3 (no result)."""
    outcome = view.outcome
    if as_json:
        emit(document(session, view))
    elif outcome is not None and outcome.ready:
        _print(session, outcome, traceback)
    else:
        click.echo(_pending(session, view), err=True)
    if outcome is None or not outcome.ready:
        click.get_current_context().exit(NOT_READY)
    elif outcome.state in (states.FAILURE, states.REVOKED):
        click.get_current_context().exit(1)


def document(session: Session, view: TaskView) -> dict[str, Any]:
    """Return what is known of a task as plain data."""
    known = {"id": view.id, "task": view.task or None, "state": view.state, "place": view.place}
    return known if view.outcome is None else {**outcome_document(view.outcome, session.app), "place": view.place}


def _print(session: Session, outcome: Outcome, traceback: bool) -> None:
    failure = outcome.failure
    if failure is None:
        value = value_of(outcome, session.app)
        if outcome.state == states.SUCCESS:
            click.echo(value if isinstance(value, str) else repr(value))
        else:
            click.echo(f"{outcome.task}[{outcome.id}] ended as {outcome.state}.", err=True)
        return
    if traceback and failure.traceback:
        click.echo(failure.traceback.rstrip())
    what = f"was not run, because {_cause(session, outcome.cause)}" if outcome.cause else _verb(outcome)
    click.echo(f"Error: {outcome.task}[{outcome.id}] {what}: {failure.type}: {failure.message}", err=True)


def _cause(session: Session, id: str) -> str:
    """Say which task of the workflow has ended badly, so that others were not run."""
    outcome = session.run(find(session, id)).outcome
    return f"the task {id} failed" if outcome is None else f"{outcome.task}[{id}] {_verb(outcome)}"


def _verb(outcome: Outcome) -> str:
    return "was revoked" if outcome.state == states.REVOKED else "failed"


def _pending(session: Session, view: TaskView) -> str:
    if not view.known and session.app.sends_outcomes:  # we have sent it, and wait for it ourselves
        return f"No result yet: {view.id}. `{session.celeriac('status')}` shows workers and queues."
    if not view.known:
        return (f"Error: Nothing is known of the task {view.id}: the id is mistyped, or its result has expired "
                "or was forgotten.")  # fmt: skip
    place = {"active": "a worker has it", "dead": "it is a dead letter", "ready": "it waits for a worker",
             "scheduled": "its time has not come"}.get(view.place or "", "no message is on its way")  # fmt: skip
    if view.message is not None and view.message.unknown_since is not None and view.place in ("ready", "scheduled"):
        place = "no worker that received it knows this task"
    return (f"No result yet: {view.task}[{view.id}] is {view.state}; {place}. "
            f"`{session.celeriac('status')}` shows workers and queues.")  # fmt: skip
