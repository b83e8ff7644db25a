"""`celeriac tasks`: lists recent outcomes; shows, revokes and retries tasks and workflows."""

from __future__ import annotations

import click

from celeriac import states
from celeriac.cli.audit import audited, operator
from celeriac.cli.documents import as_json, emit
from celeriac.cli.endings import find, report_revoked, unregistered
from celeriac.cli.history import filter_options, filter_text, history_of, parsed
from celeriac.cli.numbers import WholeNumber
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import call, duration, show, when
from celeriac.cli.workflows import find_workflow, show_workflow
from celeriac.documents import (
    attempt_document,
    call_of,
    message_document,
    outcome_document,
    page_document,
    value_of,
    view_document,
)
from celeriac.errors import WorkflowError
from celeriac.model.outcome import Outcome

__all__ = ["command"]

STATES = (states.SUCCESS, states.FAILURE, states.RETRY, states.REVOKED, states.STARTED, states.PROGRESS, states.IGNORED)
SHORT = 60  # characters: the longest result shown in the list


@click.group("tasks", invoke_without_command=True)
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only tasks in this state.")
@click.option("--limit", metavar="N", type=WholeNumber(min=1), default=20, show_default=True, help="Show at most N.")
@click.option("--offset", metavar="N", type=WholeNumber(min=0), default=0, help="Skip the first N.")
@click.option("--workflow", metavar="ID", help="List the tasks of this workflow in order, and how many have ended.")
@click.option("--cursor", metavar="TEXT", help="Go on where the page before has ended.")
@filter_options
@as_json
@with_session
def command(session: Session, /, *, state: str | None, limit: int, offset: int, workflow: str | None, as_json: bool,
            cursor: str | None, **options: str | None) -> None:  # fmt: skip
    """List the most recent outcomes, newest first, or a workflow's tasks; show, revoke, run or retry tasks.

    With --task, --queue, --error, --since, --until or --filter, it searches the history, which has failures, and a
    sample of the successes, of many days.

    \b
    Examples:
      celeriac -A shop tasks
      celeriac -A shop tasks --state FAILURE --limit 50
      celeriac -A shop tasks --task 'shop.*' --state FAILURE --since 2h --error ValueError
      celeriac -A shop tasks --filter 'queue:mail runtime:>5s header.tenant:acme "card declined"'
      celeriac -A shop tasks show 0197a1b2-…
      celeriac -A shop tasks --workflow 0197a1b2-…

    \b
    Exit codes:
      0  success
      1  failure, for example an unknown task or workflow
      2  the command line or the app is invalid
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    text = filter_text(options)
    if workflow is not None and (text or offset or cursor is not None):
        raise click.UsageError("--workflow lists all tasks of the workflow: with it, only --state chooses some.")
    if offset and text:
        raise click.UsageError("--offset is for the list of the most recent outcomes: a search goes on with --cursor.")
    if cursor is not None and not text:
        raise click.UsageError("--cursor goes on with a search: repeat its --task, --filter or other conditions.")
    if workflow is not None:
        show_workflow(session, workflow, state, as_json)
        return
    if text:
        _search(session, f"state:{state} {text}" if state else text, limit, cursor, as_json)
        return
    outcomes = session.run(session.inspector().recent(limit, offset, state))
    if as_json:
        emit([outcome_document(outcome, session.app) for outcome in outcomes])
        return
    show(["id", "task", "state", "attempt", "took", "ended", "result"],
         [(outcome.id, outcome.task, outcome.state, *_attempt(outcome), when(outcome.done_at), _short(outcome, session))
          for outcome in outcomes],
         empty="There are no outcomes.", numbers=["attempt", "took"])  # fmt: skip


def _search(session: Session, text: str, limit: int, cursor: str | None, as_json: bool) -> None:
    """Show attempts of the history."""
    try:
        page = session.run(history_of(session).search(parsed(session, text), limit, cursor))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        emit(page_document(page))
        return
    show(["id", "task", "state", "attempt", "waited", "took", "ended", "error"],
         [(one.id, one.task, one.state, one.attempt, duration(one.wait), duration(one.runtime), when(one.done_at),
           f"{one.error.rpartition('.')[2]}: {one.message}" if one.error else "") for one in page.rows],
         empty="The history has no such attempts.", numbers=["attempt", "waited", "took"])  # fmt: skip
    if any(one.share < 1 for one in page.rows):
        echo("Successes are a sample: `stats` counts all.", err=True)
    if page.next is not None:
        echo(f"There are more: --cursor {page.next}", err=True)


def _attempt(outcome: Outcome) -> tuple[int | str, str]:
    """Return attempt and run time; both empty if the task was not run."""
    return ("", "") if outcome.cause is not None else (outcome.attempt, duration(outcome.runtime))


def _short(outcome: Outcome, session: Session) -> str:
    if outcome.cause is not None:
        text = f"not run because of {outcome.cause}"
    elif outcome.failure is not None:
        text = f"{outcome.failure.type}: {outcome.failure.message}"
    else:
        text = "" if outcome.value is None else repr(value_of(outcome, session.app))
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"


@command.command("show")
@click.argument("id")
@as_json
@with_session
def show_task(session: Session, *, id: str, as_json: bool) -> None:
    """Show everything known about the task ID.

    That is its message, if the broker holds one, and its outcome, if one is stored.

    \b
    Examples:
      celeriac -A shop tasks show 0197a1b2-…
    """
    view = session.run(find(session, id))
    if not view.known and _show_timeline(session, id, as_json):
        return
    if not view.known:
        raise click.ClickException(f"Unknown task {id}: the id is mistyped, or its result has expired or was "
                                   f"forgotten. `{session.celeriac('tasks')}` lists recent tasks.")  # fmt: skip
    message, outcome = view.message, view.outcome
    if as_json:
        document = view_document(view, session.app, traceback=True, arguments=True)
        emit({**document, "message": message and message_document(message, session.app)})
        return
    facts: list[tuple[str, object]] = [("id", view.id), ("task", view.task), ("state", view.state)]
    if message is not None:
        facts += [
            ("message", {"active": "held by a worker", "dead": "dead letter"}.get(view.place or "", view.place)),
            ("not run", unregistered(session, view)),
            ("call", f"{message.task}({call(call_of(message, session.app))})"),
            ("queue", f"{message.queue}, priority {message.priority}"),
            ("attempt", message.attempt),
            ("sent", when(message.sent_at)),
            ("due", when(message.due_at)),
            ("expires", when(message.expires_at)),
            ("parent", message.parent_id),
            ("group", message.group_id),
        ]
    if outcome is not None and outcome.cause is not None:
        facts += [("not run", f"because of {outcome.cause}"), ("ended", when(outcome.done_at))]
    elif outcome is not None:
        facts += [
            ("outcome of attempt", outcome.attempt),
            ("worker", outcome.worker),
            ("started", when(outcome.started_at)),
            ("ended", when(outcome.done_at)),
            ("took", duration(outcome.runtime) if outcome.ready else ""),
        ]
    if outcome is not None and outcome.call is not None and message is None:
        facts += [
            ("call", f"{outcome.task}({call(call_of(outcome.call, session.app))})"),
            ("queue", outcome.call.queue),
            ("sent", when(outcome.call.sent_at)),
        ]
    if outcome is not None:
        if outcome.failure is not None:
            facts.append(("error", f"{outcome.failure.type}: {outcome.failure.message}"))
        else:
            facts.append(("result", repr(value_of(outcome, session.app))))
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        if value not in (None, ""):
            echo(f"{name:<{width}}  {value}")
    if outcome is not None and outcome.failure is not None and outcome.failure.traceback:
        echo(f"\n{outcome.failure.traceback.rstrip()}")


def _show_timeline(session: Session, id: str, as_json: bool) -> bool:
    """Show the attempts of a task that the history has kept. Return whether there are any."""
    history = session.app.history
    attempts = session.run(history.timeline(id)).attempts if history is not None else []
    if attempts and as_json:
        emit({"id": id, "task": attempts[-1].task, "state": attempts[-1].state, "place": None,
              "attempts": [attempt_document(attempt, traceback=True) for attempt in attempts]})  # fmt: skip
    elif attempts:
        echo("Its outcome has expired. The history has kept:\n")
        for one in attempts:
            echo(f"attempt {one.attempt} of {one.task} in {one.queue}: {one.state} at {when(one.done_at)}, on "
                 f"{one.worker or '?'}, after {duration(one.runtime)}; it had waited {duration(one.wait)}")  # fmt: skip
        if attempts[-1].error:
            echo(f"\n{attempts[-1].traceback.rstrip() or f'{attempts[-1].error}: {attempts[-1].message}'}")
    return bool(attempts)


@command.command("revoke")
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--workflow", metavar="ID", help="Revoke all tasks of this workflow that have not ended.")
@click.option("--terminate", is_flag=True, help="Also terminate running attempts.")
@as_json
@with_session
@audited
def revoke(session: Session, *, ids: tuple[str, ...], workflow: str | None, terminate: bool, as_json: bool) -> None:
    """Prevent tasks from starting on any worker.

    The broker stores the revocation for a week, so it also applies to workers that start later.

    \b
    Examples:
      celeriac -A shop tasks revoke 0197a1b2-…
      celeriac -A shop tasks revoke 0197a1b2-… --terminate
      celeriac -A shop tasks revoke --workflow 0197a1b2-…
    """
    if not ids and workflow is None:
        raise click.UsageError("Give task ids or --workflow ID.")
    named = ids
    if workflow is not None:
        ids = (*ids, *find_workflow(session, workflow).waiting())
    if ids:
        session.app.control.revoke(ids, terminate=terminate)
    if as_json:
        emit({"revoked": ids})
    else:
        report_revoked(session, len(ids), named)


@command.command("run-now")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@as_json
@with_session
@audited
def run_now(session: Session, *, ids: tuple[str, ...], as_json: bool) -> None:
    """Let scheduled tasks start before they are due.

    \b
    Examples:
      celeriac -A shop tasks run-now 0197a1b2-…
    """
    count = session.run(session.inspector().run_now(ids))
    if as_json:
        emit({"count": count})
    else:
        echo(f"{count:,} of {len(ids):,} were scheduled, and may start now.")
    if not count:
        click.get_current_context().exit(1)


@command.command("retry")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@as_json
@with_session
@audited
def retry(session: Session, *, ids: tuple[str, ...], as_json: bool) -> None:
    """Send failed tasks again, or rerun the failed tasks of workflows.

    A task keeps its id, and is run as if it had never been tried. It can be sent again as long as its outcome is kept
    (result_expires), or the history has its message. Of a workflow, tasks that were revoked or ignored are rerun, too;
    then those that were not run because of them. Tasks that succeeded are not run again.

    \b
    Examples:
      celeriac -A shop tasks retry 0197a1b2-…
    """
    sent, tasks, refused = 0, [], dict[str, str]()
    for id in ids:
        try:
            workflow = session.app.workflow(id)
        except WorkflowError:
            tasks.append(id)
            continue
        try:
            sent += workflow.retry()
        except WorkflowError as error:
            refused[id] = str(error).removesuffix(".")
    if tasks:
        done = session.run(session.inspector().retry(tasks, operator()))
        sent, refused = sent + len(done.sent), refused | done.refused
    if as_json:
        emit({"sent": sent, "refused": refused})
    else:
        echo(f"Sent {sent} again." if sent else "Nothing was sent again.")
    for id, why in refused.items():
        echo(f"Error: {id} is not sent again: {why}.", err=True)
    if refused:
        click.get_current_context().exit(1)
