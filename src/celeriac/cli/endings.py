"""Output and exit codes of `call --wait` and `result`; also the output of the revoke commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from celeriac import states
from celeriac.cli.documents import emit
from celeriac.cli.output import echo, echo_value
from celeriac.cli.session import Session
from celeriac.documents import value_of, view_document
from celeriac.errors import NotSupported, nearest
from celeriac.inspector import TaskView
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability

__all__ = ["conclude", "find", "report_revoked", "unregistered", "wait"]

# Exit codes:
NOT_READY: Final = 3
INTERRUPTED: Final = 130  # 128 + SIGINT, as in shells

PATIENCE: Final = 5.0
"""Seconds after which somebody who waits is told that no worker has taken the task."""


async def find(session: Session, id: str) -> TaskView:
    """Return what is known about a task. Raises `NotSupported` with `rpc://`."""
    return (await session.inspector().find([id]))[id]


async def _unknown(session: Session, ids: Sequence[str]) -> list[str]:
    """Return the ids about which nothing is known; none if that cannot be determined (RabbitMQ, `rpc://`)."""
    if Ability.KNOW_IDS in session.app.broker.lacks:
        return []
    try:
        views = await session.inspector().find(ids)
    except NotSupported:
        return []
    return [id for id, view in views.items() if not view.known]


def report_revoked(session: Session, count: int, named: Sequence[str]) -> None:
    """Print how many tasks were revoked, and which of the ids in `named` are unknown."""
    echo(f"Revoked {count:,}.")
    for id in session.run(_unknown(session, named)):
        echo(f"Unknown task {id}: the id is mistyped, its result has expired, or it has not been sent yet.")


def wait(session: Session, id: str, timeout: float | None) -> TaskView:
    """Wait for a task to end, at most `timeout` seconds (None: for ever), and return what is known then.

    Ctrl-C stops the command but not the task, and prints how to fetch the result later.
    """
    try:
        return session.run(_wait(session, id, timeout))
    except KeyboardInterrupt:
        later = "" if session.app.sends_outcomes else f" Fetch its result later: {session.celeriac(f'result {id}')}"
        echo(f"Stopped waiting; the task keeps running.{later}", err=True)
        return click.get_current_context().exit(INTERRUPTED)


async def _wait(session: Session, id: str, timeout: float | None) -> TaskView:
    clock, replied = session.app.clock, session.app.sends_outcomes
    deadline = None if timeout is None else clock.monotonic() + timeout
    warned = replied  # the inspector cannot find a task whose outcome is sent to this process
    while True:
        left = 3600.0 if deadline is None else max(1e-9, deadline - clock.monotonic())
        outcome = (await session.app.backend.afetch([id], wait=left if warned else min(left, PATIENCE))).get(id)
        if outcome is not None or (deadline is not None and clock.monotonic() >= deadline):
            break
        if not warned:
            warned = True
            _warn_if_waiting(session, await find(session, id))
    return TaskView(id, outcome=outcome) if replied else await find(session, id)


def _warn_if_waiting(session: Session, view: TaskView) -> None:
    """Tell a person who waits that no worker has begun: a forgotten worker looks like a slow task."""
    if view.place == "ready" or unregistered(session, view):
        echo(f"{_pending(session, view)} Still waiting; Ctrl-C ends the waiting, not the task.", err=True)


def conclude(session: Session, view: TaskView, *, as_json: bool, traceback: bool = False) -> None:
    """Print a task's result, and exit with 0 (succeeded or ignored), 1 (failed or revoked) or 3 (no result yet)."""
    outcome = view.outcome
    if as_json:
        emit(view_document(view, session.app, traceback, arguments=True))
    elif outcome is not None and outcome.ready:
        _print(session, outcome, traceback)
    else:
        echo(_pending(session, view), err=True)
    if outcome is None or not outcome.ready:
        click.get_current_context().exit(NOT_READY)
    elif outcome.state in (states.FAILURE, states.REVOKED):
        click.get_current_context().exit(1)


def _print(session: Session, outcome: Outcome, traceback: bool) -> None:
    failure = outcome.failure
    if failure is None:
        value = value_of(outcome, session.app)
        if outcome.state == states.SUCCESS:
            echo_value(value)
        else:
            echo(f"{outcome.task}[{outcome.id}] ended in the state {outcome.state}, without a result.", err=True)
        return
    if traceback and failure.traceback:
        echo(failure.traceback.rstrip())
    what = f"was not run, because {_cause(session, outcome.cause)}" if outcome.cause else _verb(outcome)
    echo(f"Error: {outcome.task}[{outcome.id}] {what}: {failure.type}: {failure.message}", err=True)


def _cause(session: Session, id: str) -> str:
    """Describe the task of the workflow whose failure kept others from running."""
    outcome = session.run(find(session, id)).outcome
    return f"the task {id} failed" if outcome is None else f"{outcome.task}[{id}] {_verb(outcome)}"


def _verb(outcome: Outcome) -> str:
    return "was revoked" if outcome.state == states.REVOKED else "failed"


def unregistered(session: Session, view: TaskView) -> str:
    """Say so if no worker that received a message has its task, and which task may be meant; otherwise return ""."""
    message, known = view.message, session.app.tasks
    if message is None or message.unknown_since is None or view.place not in ("ready", "scheduled"):
        return ""
    hint = nearest(message.task, known) if message.task not in known else ""
    return ("no worker that received it has this task registered. Import its module there, or name it in the setting "
            f"`imports` or in `app.autodiscover_tasks`.{hint}")  # fmt: skip


def _pending(session: Session, view: TaskView) -> str:
    if not view.known and session.app.sends_outcomes:  # this process has sent the task, so it exists
        return f"No result yet: {view.id}. `{session.celeriac('status')}` shows workers and queues."
    if not view.known:
        return (f"Error: Unknown task {view.id}: the id is mistyped, or its result has expired or was forgotten. "
                f"`{session.celeriac('tasks')}` lists recent tasks.")  # fmt: skip
    where = {"active": "a worker holds it", "dead": "it is a dead letter", "ready": "it is waiting for a worker",
             "scheduled": "it is not due yet"}.get(view.place or "", "the broker holds no message for it")  # fmt: skip
    where = unregistered(session, view) or f"{where}."
    return (f"No result yet: {view.task}[{view.id}] is {view.state}; {where} "
            f"`{session.celeriac('status')}` shows workers and queues.")  # fmt: skip
