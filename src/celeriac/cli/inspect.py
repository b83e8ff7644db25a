"""`celeriac inspect …`: queries to running workers."""

from __future__ import annotations

import click

from celeriac.cli.answers import asks, conclude, emit_answers
from celeriac.cli.celery_options import INSPECT, CeleryGroup
from celeriac.cli.documents import as_json, emit
from celeriac.cli.numbers import WholeNumber
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import call, duration, show, when
from celeriac.documents import call_of, message_document
from celeriac.model.clock import Clock

__all__ = ["command"]


@click.group("inspect", cls=CeleryGroup, hints=INSPECT)
def command() -> None:
    """Query running workers.

    \b
    Examples:
      celeriac -A shop inspect active
      celeriac -A shop inspect stats --destination shop@host.4242
      celeriac -A shop inspect scheduled --json | jq '.[].task'

    \b
    Exit codes:
      0  every worker asked has replied
      1  a worker did not reply, or none is running
    """


@command.command()
@asks
@as_json
@with_session
def ping(session: Session, *, destination: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Check which workers reply.

    \b
    Examples:
      celeriac -A shop inspect ping
      celeriac -A shop inspect ping -d shop@host.4242 -t 0.5
    """
    answers = session.run(session.inspector(destination, timeout).ping())
    if as_json:
        emit_answers(answers)
    elif answers.values:
        show(["worker", "reply"], [(worker, "pong") for worker in answers.values])
    conclude(session, answers)


@command.command()
@asks
@as_json
@with_session
def active(session: Session, *, destination: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Show the tasks that are running.

    \b
    Examples:
      celeriac -A shop inspect active
    """
    answers = session.run(session.inspector(destination, timeout).active())
    if as_json:
        emit_answers(answers)
    else:
        now = Clock().now()
        show(
            ["id", "task", "queue", "attempt", "for", "pid", "worker"],
            [
                (task.id, task.task, task.queue, task.attempt, duration(max(0.0, now - task.started_at)),
                 str(task.pid or ""), worker)
                for worker, tasks in answers.values.items()
                for task in tasks
            ],
            empty="No task is running.",
            numbers=["attempt", "for", "pid"],
        )  # fmt: skip
    conclude(session, answers)


@command.command()
@asks
@as_json
@with_session
def reserved(session: Session, *, destination: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Show the tasks that workers have received and not started.

    \b
    Examples:
      celeriac -A shop inspect reserved
    """
    answers = session.run(session.inspector(destination, timeout).reserved())
    if as_json:
        emit_answers(answers)
    else:
        rows = [(task.id, task.task, task.queue, worker) for worker, tasks in answers.values.items() for task in tasks]
        show(["id", "task", "queue", "worker"], rows, empty="Every task that was received has started.")
    conclude(session, answers)


@command.command()
@asks
@as_json
@with_session
def registered(session: Session, *, destination: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Show the tasks that workers have registered.

    \b
    Examples:
      celeriac -A shop inspect registered
    """
    answers = session.run(session.inspector(destination, timeout).registered())
    if as_json:
        emit_answers(answers)
    else:
        rows = [(task, worker) for worker, tasks in answers.values.items() for task in tasks]
        show(["task", "worker"], rows, empty="No task is registered.")
    conclude(session, answers)


@command.command()
@asks
@as_json
@with_session
def stats(session: Session, *, destination: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Show each worker's pool, and counts and run times by task.

    \b
    Examples:
      celeriac -A shop inspect stats
      celeriac -A shop inspect stats --json | jq '.workers[].tasks'
    """
    answers = session.run(session.inspector(destination, timeout).stats())
    if as_json:
        emit_answers(answers)
        return conclude(session, answers)
    for worker, found in answers.values.items():
        capacity = ", ".join(f"{count} {lane}" for lane, count in found.capacity.items() if count)
        show(["pid", "lane", "running", "done"],
             [(str(child.pid), child.lane, child.running, child.done) for child in found.pool.children],
             title=f"{worker}: {found.pool.kind}, pid {found.pid}, up {duration(found.uptime)}, capacity: {capacity}",
             empty="No children.", numbers=["running", "done"])  # fmt: skip
        show(["task", "count", "states", "mean", "min", "p50", "p95", "p99", "max"],
             [(task, runs.count, ", ".join(f"{name} {count:,}" for name, count in runs.states.items()),
               *map(duration, (runs.mean, runs.min, runs.p50, runs.p95, runs.p99, runs.max)))
              for task, runs in found.tasks.items()],
             empty="No task has run yet.", numbers=["count", "mean", "min", "p50", "p95", "p99", "max"])  # fmt: skip
    return conclude(session, answers)


@command.command()
@click.option("-q", "--queue", metavar="NAME", help="Only this queue.")
@click.option("--limit", metavar="N", type=WholeNumber(min=1), default=50, show_default=True, help="Show at most N.")
@click.option("--offset", metavar="N", type=WholeNumber(min=0), default=0, help="Skip the first N.")
@as_json
@with_session
def scheduled(session: Session, *, queue: str | None, limit: int, offset: int, as_json: bool) -> None:
    """Show the messages that are not yet due, soonest first.

    They are read from the broker; no worker needs to be running.

    \b
    Examples:
      celeriac -A shop inspect scheduled --queue mail --limit 10
    """
    messages = session.run(session.inspector().scheduled(queue, limit, offset))
    if as_json:
        emit([message_document(message, session.app) for message in messages])
    else:
        show(["id", "due", "queue", "attempt", "call"],
             [(message.id, when(message.due_at), message.queue, message.attempt,
               f"{message.task}({call(call_of(message, session.app))})") for message in messages],
             empty="Nothing is scheduled.", numbers=["attempt"])  # fmt: skip
