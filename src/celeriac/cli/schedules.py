"""`celeriac schedules`: lists, shows, pauses, resumes, removes and runs schedules. More is in `schedules_change.py`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import click

from celeriac.beat.info import ScheduleInfo
from celeriac.cli.audit import audited
from celeriac.cli.documents import as_json, emit
from celeriac.cli.numbers import WholeNumber
from celeriac.cli.output import echo
from celeriac.cli.schedules_change import add, backfill, change
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import call, duration, show, until, when
from celeriac.documents import call_of, schedule_document

__all__ = ["command"]

OVERDUE = 10.0  # seconds; nothing but a missing scheduler makes an entry so late


@click.group("schedules", invoke_without_command=True)
@with_session
def command(session: Session) -> None:
    """List, add, change, pause, remove and run schedules: what schedulers send periodically.

    A change is in force on every scheduler within a second.

    \b
    Examples:
      celeriac -A shop schedules
      celeriac -A shop schedules next nightly -n 10
      celeriac -A shop schedules pause nightly
      celeriac -A shop schedules add nightly --schedule '0 3 * * *' --task shop.report

    \b
    Exit codes:
      0  success
      1  failure; the reason is on stderr
      2  the command line or the app is invalid, for example an unknown schedule
    """
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        context.invoke(list_schedules)


for _command in (add, change, backfill):
    command.add_command(_command)


# --- Looking ------------------------------------------------------------------------------------------


@command.command("list")
@click.option("--limit", metavar="N", type=WholeNumber(min=1), default=100, show_default=True,
              help="Show at most N.")  # fmt: skip
@click.option("--after", metavar="NAME", default="", help="Begin after this name.")
@as_json
@with_session
def list_schedules(session: Session, *, limit: int = 100, after: str = "", as_json: bool = False) -> None:
    """List schedules, sorted by name.

    \b
    Examples:
      celeriac -A shop schedules list
      celeriac -A shop schedules list --json | jq '.[] | select(.state == "problem")'
    """
    found = session.run(session.app.schedules.alist(after, limit))
    if as_json:
        emit([schedule_document(info, session.app) for info in found])
        return
    show(["name", "what", "schedule", "next", "last", "sent", "missed", "skipped", "state"],
         [(info.name, _what(session, info), info.schedule, _next(session, info), when(_seconds(info.last_at)),
           info.sent, info.missed, info.skipped, _state(info)) for info in found],
         empty="There are no schedules. A scheduler that starts adds those that the app declares.",
         numbers=["sent", "missed", "skipped"])  # fmt: skip
    if len(found) == limit:
        echo(f"There may be more: {session.celeriac(f'schedules list --after {found[-1].name!r}')}", err=True)
    _warn_if_overdue(session, found)


@command.command("show")
@click.argument("name")
@as_json
@with_session
def show_schedule(session: Session, *, name: str, as_json: bool) -> None:
    """Show everything known about the schedule NAME.

    \b
    Examples:
      celeriac -A shop schedules show nightly
    """
    info = session.run(session.app.schedules.aget(name))
    if as_json:
        emit(schedule_document(info, session.app))
        return
    facts = [
        ("name", info.name),
        ("state", _state(info)),
        ("sends", _what(session, info)),
        ("queue", ", ".join(dict.fromkeys(message.queue for message in info.messages))),
        ("schedule", info.schedule),
        ("in words", info.words),
        ("next", info.next_at and f"{_local(info.next_at, info.timezone)}, {_next(session, info)}"),
        ("last", info.last_at and _local(info.last_at, info.timezone)),
        ("last id", info.last_id),
        ("sent", f"{info.sent:,}"),
        ("missed", f"{info.missed:,}"),
        ("skipped", f"{info.skipped:,}"),
        ("policies", ", ".join(f"{policy}={value!r}" for policy, value in info.policies.items())),
        ("made by", {"code": "the app's code", "hand": "hand"}.get(info.origin)),
        ("changes", info.version or None),
    ]
    for fact, value in facts:
        if value not in (None, ""):
            echo(f"{fact:<8}  {value}")
    _warn_if_overdue(session, [info])


@command.command("next")
@click.argument("name")
@click.option("-n", "--number", metavar="N", type=WholeNumber(1, 1000), default=5, show_default=True,
              help="Tell N times.")  # fmt: skip
@as_json
@with_session
def next_times(session: Session, *, name: str, number: int, as_json: bool) -> None:
    """Tell when NAME is sent next, in its time zone, with the offset from UTC.

    \b
    Examples:
      celeriac -A shop schedules next nightly
      celeriac -A shop schedules next nightly -n 20
    """
    schedules = session.app.schedules
    info = session.run(schedules.aget(name))
    zone = ZoneInfo(info.timezone)
    times = [time.astimezone(zone) for time in session.run(schedules.anext(name, number))]
    if as_json:
        emit({"name": name, "schedule": info.schedule, "words": info.words, "timezone": info.timezone,
              "state": info.state, "next": [time.isoformat() for time in times]})  # fmt: skip
        return
    now = session.app.clock.now()
    before = [datetime.fromtimestamp(now, zone), *times]
    show(["in", "time", "offset"],
         [(until(time.timestamp(), now).removeprefix("in "), f"{time:%a %Y-%m-%d %H:%M:%S}", _offset(time, earlier))
          for earlier, time in zip(before, times, strict=False)],
         title=f"{name}: {info.words}", empty="It is over: nothing comes any more.")  # fmt: skip
    if info.paused:
        echo(f"It is paused: nothing is sent before {session.celeriac(f'schedules resume {name!r}')}", err=True)


# --- Operating ----------------------------------------------------------------------------------------


@command.command("run")
@click.argument("name")
@as_json
@with_session
@audited
def run(session: Session, *, name: str, as_json: bool) -> None:
    """Send what NAME sends, now, besides its ticks; print the id of the (last) task.

    \b
    Examples:
      celeriac -A shop schedules run nightly
      celeriac -A shop result $(celeriac -A shop schedules run nightly) --wait
    """
    id = session.run(session.app.schedules.arun(name))
    if as_json:
        emit({"name": name, "id": id})
    else:
        echo(id)


@command.command("pause")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@as_json
@with_session
@audited
def pause(session: Session, *, names: tuple[str, ...], as_json: bool) -> None:
    """Stop sending schedules until they are resumed. Ticks that come meanwhile are left out.

    \b
    Examples:
      celeriac -A shop schedules pause nightly hourly
    """
    session.run(_each(session, "apause", names))
    if as_json:
        emit({"paused": names})
    else:
        resume = session.celeriac(f"schedules resume {' '.join(map(_quoted, names))}")
        echo(f"Paused {', '.join(names)}. To resume: {resume}")


@command.command("resume")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@as_json
@with_session
@audited
def resume(session: Session, *, names: tuple[str, ...], as_json: bool) -> None:
    """Resume paused schedules: the ticks that are sent begin now.

    \b
    Examples:
      celeriac -A shop schedules resume nightly
    """
    session.run(_each(session, "aresume", names))
    if as_json:
        emit({"resumed": names})
    else:
        echo(f"Resumed {', '.join(names)}.")


@command.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@as_json
@with_session
@audited
def remove(session: Session, *, names: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Remove schedules. They cannot be recovered; what they have sent already is run.

    \b
    Examples:
      celeriac -A shop schedules remove nightly
      celeriac -A shop schedules remove nightly hourly --yes
    """
    found = session.run(_known(session, names))
    declared = [info.name for info in found if info.origin == "code"]
    if not yes:
        click.confirm(f"Remove {', '.join(names)}? It cannot be recovered.", abort=True, err=True)
    session.run(_each(session, "aremove", names))
    if as_json:
        emit({"removed": names})
    else:
        echo(f"Removed {', '.join(names)}.")
    if declared:
        echo(f"The app's code declares {', '.join(declared)}: the next scheduler that starts adds it again. "
             "Remove it from the code, or pause it instead.", err=True)  # fmt: skip


async def _known(session: Session, names: Sequence[str]) -> list[ScheduleInfo]:
    """Return entries. Raises `UnknownSchedule`."""
    return [await session.app.schedules.aget(name) for name in names]


async def _each(session: Session, what: str, names: Sequence[str]) -> None:
    """Do something to entries; to none of them if one is unknown."""
    await _known(session, names)
    for name in dict.fromkeys(names):
        await getattr(session.app.schedules, what)(name)


# --- Texts --------------------------------------------------------------------------------------------


def _what(session: Session, info: ScheduleInfo) -> str:
    """Return the call that an entry makes; of a workflow, those that it begins with."""
    calls = [f"{message.task}({call(call_of(message, session.app))})" for message in info.messages]
    return f"a workflow, from {', '.join(calls)}" if info.workflow else ", ".join(calls)


def _state(info: ScheduleInfo) -> str:
    return f"problem: {info.problem}" if info.problem else info.state


def _next(session: Session, info: ScheduleInfo) -> str:
    return until(_seconds(info.next_at), session.app.clock.now())


def _seconds(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _local(time: datetime, name: str) -> str:
    local = time.astimezone(ZoneInfo(name))
    return f"{local:%a %Y-%m-%d %H:%M:%S} {_offset(local)}"


def _offset(time: datetime, earlier: datetime | None = None) -> str:
    """Return the offset of a local time, and whether it has changed: `+02:00 CEST, the clocks have changed`."""
    offset = time.utcoffset() or timedelta()
    text = datetime(2000, 1, 1, tzinfo=timezone(offset)).isoformat()[19:]
    name = time.tzname()
    if name and name[0].isalpha():
        text += f" {name}"
    changed = earlier is not None and earlier.utcoffset() != offset
    return f"{text}, the clocks have changed" if changed else text


def _quoted(name: str) -> str:
    return name if name.replace("-", "a").replace(".", "a").isidentifier() else repr(name)


def _warn_if_overdue(session: Session, found: Sequence[ScheduleInfo]) -> None:
    now = session.app.clock.now()
    late = max((now - info.next_at.timestamp() for info in found if info.next_at is not None), default=0.0)
    if late > OVERDUE:
        echo(f"Nothing has been sent that is {duration(late)} late: no scheduler runs, or it cannot reach its "
             f"servers. To start one: {session.celeriac('beat')}", err=True)  # fmt: skip
