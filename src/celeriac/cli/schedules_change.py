"""`celeriac schedules add`, `change` and `backfill`: the commands that take a schedule, a call or a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar, get_args

import click

from celeriac.beat.definition import Overlap
from celeriac.cli.audit import audited
from celeriac.cli.call import unknown_task
from celeriac.cli.documents import as_json, emit
from celeriac.cli.numbers import WholeNumber
from celeriac.cli.options import aware_time, json_value
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import until
from celeriac.errors import ImproperlyConfigured
from celeriac.schedules.schedule import Schedule
from celeriac.schedules.ticks import Missed
from celeriac.schedules.written import Unfitting, duration_written, schedule_written
from celeriac.schedules.zones import Dst

__all__ = ["add", "backfill", "change"]

Command = TypeVar("Command", bound=Callable[..., Any])

SCHEDULE: Final[Sequence[str]] = ("tz", "dst", "starts", "ends")  # the options that say more about --schedule
CALL: Final[Sequence[str]] = ("args", "kwargs", "queue", "priority", "expires", "unregistered")  # … and about --task


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    found = duration_written(value)
    if found is None:
        raise click.BadParameter(f"must be seconds, or a number with a unit: 30s, 5m, 2h or 1d, not {value!r}")
    return found


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_details = _options(
    click.option("-s", "--schedule", metavar="WHEN",
                 help="A cron expression ('0 9 * * mon-fri', @daily), an interval (30s, 5m, 2h, 1d), or one time "
                      "(2030-01-31T12:00:00Z)."),
    click.option("--tz", metavar="ZONE",
                 help="The time zone of a cron expression.  [default: the setting timezone]"),
    click.option("--dst", type=click.Choice(get_args(Dst)),
                 help="What happens to times that a change of the clocks leaves out or repeats.  [default: cron]"),
    click.option("--starts", metavar="TIME", callback=aware_time,
                 help="Nothing is due before (ISO 8601 with zone)."),
    click.option("--ends", metavar="TIME", callback=aware_time, help="Nothing is due after."),
    click.option("-t", "--task", metavar="TASK", help="The task that is sent."),
    click.option("-a", "--args", metavar="JSON", callback=json_value,
                 help="Its positional arguments: a JSON list."),
    click.option("-k", "--kwargs", metavar="JSON", callback=json_value,
                 help="Its keyword arguments: a JSON object."),
    click.option("-q", "--queue", metavar="NAME", help="Send to this queue.  [default: as routed]"),
    click.option("--priority", metavar="0-9", type=WholeNumber(0, 9), help="9 is the highest."),
    click.option("--expires", metavar="DURATION", callback=_duration,
                 help="Do not start it so long after its tick."),
    click.option("--unregistered", is_flag=True, default=None, help="Even if this app has no such task."),
    click.option("--missed", type=click.Choice(get_args(Missed)),
                 help="Which ticks are sent that fell due while no scheduler ran.  [default: latest]"),
    click.option("--window", metavar="DURATION", callback=_duration, help="Do not send a tick that is older."),
    click.option("--max-missed", metavar="N", type=WholeNumber(1, 10_000),
                 help="With --missed all: send at most N.  [default: 100]"),
    click.option("--overlap", type=click.Choice(get_args(Overlap)),
                 help="What happens while the last one has not ended.  [default: allow]"),
    click.option("--overlap-timeout", metavar="DURATION", callback=_duration,
                 help="The last one counts as ended after this."),
    click.option("--jitter", metavar="DURATION", callback=_duration, help="Delay each by up to this."),
    click.option("--times", metavar="N", type=WholeNumber(min=1), help="Stop after N ticks."),
)  # fmt: skip


@click.command("add")
@click.argument("name")
@_details
@as_json
@with_session
@audited
def add(session: Session, /, *, name: str, as_json: bool, **given: Any) -> None:
    """Add a schedule, which sends a task from now on.

    A DURATION is seconds, or a number with a unit: 30s, 5m, 2h, 1d.

    \b
    Examples:
      celeriac -A shop schedules add nightly --schedule '0 3 * * *' --tz Europe/Berlin --task shop.report
      celeriac -A shop schedules add poll -s 30s -t shop.poll --args '["news"]' --overlap skip
      celeriac -A shop schedules add sale -s 2030-01-31T12:00:00Z -t shop.sale
    """
    for option in ("schedule", "task"):
        if given[option] is None:
            raise click.UsageError(f"Give --{option}.")
    if session.app.broker_url.startswith("memory:"):
        raise ImproperlyConfigured("memory:// lives in one process: no scheduler could find this schedule. "
                                   "Set another broker: CELERIAC_BROKER_URL=sqlite:///celeriac.db.")  # fmt: skip
    schedule, what, policies = _read(session, given)
    assert schedule is not None
    session.run(session.app.schedules.aadd(name, schedule, what, **policies))
    _report(session, "Added", name, as_json)


@click.command("change")
@click.argument("name")
@_details
@as_json
@with_session
@audited
def change(session: Session, /, *, name: str, as_json: bool, **given: Any) -> None:
    """Change what is given of a schedule, and leave the rest.

    With another --schedule, its ticks begin now. A schedule that the app's code declares is as declared again when a
    scheduler starts.

    \b
    Examples:
      celeriac -A shop schedules change nightly --schedule '30 3 * * *'
      celeriac -A shop schedules change poll --overlap skip --jitter 5s
    """
    schedule, what, policies = _read(session, given)
    if schedule is None and what is None and not policies:
        raise click.UsageError("Nothing is given that is to be changed.")
    session.run(session.app.schedules.achange(name, schedule, what, **policies))
    _report(session, "Changed", name, as_json)


@click.command("backfill")
@click.argument("name")
@click.option("--from", "start", metavar="TIME", required=True, callback=aware_time,
              help="After this time (ISO 8601 with zone).")  # fmt: skip
@click.option("--to", "end", metavar="TIME", required=True, callback=aware_time, help="Until this time, included.")
@as_json
@with_session
@audited
def backfill(session: Session, *, name: str, start: datetime, end: datetime, as_json: bool) -> None:
    """Send the ticks of NAME between two times now.

    A tick whose task is still known is not sent again.

    \b
    Examples:
      celeriac -A shop schedules backfill nightly --from 2030-01-01T00:00:00Z --to 2030-01-31T00:00:00Z
    """
    if start >= end:
        raise click.UsageError("--from must be before --to.")
    try:
        sent = session.run(session.app.schedules.abackfill(name, start, end))
    except ImproperlyConfigured:
        raise
    except ValueError as error:  # too many at a time
        raise click.ClickException(str(error)) from None
    if as_json:
        emit({"name": name, "sent": sent})
    else:
        echo(f"Sent {sent:,} tick{'' if sent == 1 else 's'} of {name}.")


def _read(session: Session, given: dict[str, Any]) -> tuple[Schedule | None, Any, dict[str, Any]]:
    """Return the schedule, the signature, and the policies that the options give."""
    found = {option: value for option, value in given.items() if value not in (None, [], {})}
    schedule, task = found.pop("schedule", None), found.pop("task", None)
    limits = {option: found.pop(option) for option in SCHEDULE if option in found}
    options = {option: found.pop(option) for option in CALL if option in found}
    for value, main, others in ((schedule, "schedule", limits), (task, "task", options)):
        if value is None and others:
            raise click.UsageError(f"--{next(iter(others))} needs --{main}.")
    when = None if schedule is None else _schedule(schedule, limits)
    return when, None if task is None else _signature(session, task, options), found


def _schedule(text: str, limits: dict[str, Any]) -> Schedule:
    try:
        return schedule_written(text, **limits)
    except Unfitting as error:
        raise click.UsageError(f"--{error}") from None


def _signature(session: Session, task: str, options: dict[str, Any]) -> Any:
    if not options.pop("unregistered", False) and task not in session.app.tasks:
        raise unknown_task(task, session.app)
    return session.app.signature(task, options.pop("args", ()), options.pop("kwargs", None), **options)


def _report(session: Session, done: str, name: str, as_json: bool) -> None:
    info = session.run(session.app.schedules.aget(name))
    next_at = None if info.next_at is None else info.next_at.timestamp()
    if as_json:
        emit({"name": name, "schedule": info.schedule, "words": info.words,
              "next_at": info.next_at and info.next_at.isoformat()})  # fmt: skip
    else:
        coming = f"next {until(next_at, session.app.clock.now())}" if next_at else info.state
        echo(f"{done} {name}: {info.words}; {coming}.")
