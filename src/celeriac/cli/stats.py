"""`celeriac stats`: how often tasks ran, how long, and how they failed; from the history, so across restarts."""

from __future__ import annotations

from typing import Any

import click

from celeriac import states
from celeriac.cli.audit import audited, operator
from celeriac.cli.documents import as_json, emit
from celeriac.cli.history import filter_options, filter_text, history_of, parsed
from celeriac.cli.numbers import WholeNumber
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import duration, show, when
from celeriac.documents import event_document, failure_document, instant, point_document, rows_of, sums_of
from celeriac.inspector.audit import AUDITED
from celeriac.model.filters import ANY, duration_of, instant_of
from celeriac.model.history import Sums
from celeriac.ports.history import MOST_POINTS

__all__ = ["command"]

HOUR = 3600.0
STATUSES = ("open", "resolved", "muted")


@click.group("stats", invoke_without_command=True)
@filter_options
@click.option("--by", type=click.Choice(["task", "queue", "error"]), default="task", show_default=True,
              help="What a line is.")  # fmt: skip
@click.option("--step", metavar="DURATION", help="Lines by time, too: 10s, 1min, 10min, 1h, 1d.")
@click.option("--ever", is_flag=True, help="All that was ever counted.")
@as_json
@with_session
def command(session: Session, /, *, by: str, step: str | None, ever: bool, as_json: bool,
            **options: str | None) -> None:  # fmt: skip
    """Show how many attempts ended, how many failed, and how long they ran and waited: of the last hour, or any time.

    \b
    Examples:
      celeriac -A shop stats
      celeriac -A shop stats --task 'shop.*' --since 1d --step 1h
      celeriac -A shop stats --by queue --ever
      celeriac -A shop stats failures

    \b
    Exit codes:
      0  success
      1  failure, for example if the app keeps no history
      2  the command line or the app is invalid
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    history, chosen, now = history_of(session), parsed(session, filter_text(options)), session.app.clock.now()
    if ever and (step or chosen.since or chosen.until):
        raise click.UsageError("--ever takes no --step, --since or --until.")
    until = chosen.until or now
    since = chosen.since if chosen.since is not None else until - HOUR
    seconds = _step(step) if step else max(10, int(until - since) + 1)
    if (until - since) / seconds > MOST_POINTS:
        raise click.UsageError(f"--step {step}: these are more than {MOST_POINTS:,} lines. Choose a longer one.")
    divided = (by, "state") if by != "error" else ("task", "state", "error")
    try:
        points = session.run(
            history.totals(chosen, divided) if ever else history.series(since, until, seconds, chosen, divided)
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    rows = rows_of(points, by, bool(step))
    if as_json:
        span = {"since": None, "until": None} if ever else {"since": instant(since), "until": instant(until)}
        emit({**span, "step": seconds if step else None, "points": [point_document(*row, by) for row in rows]})
        return
    first = ["time"] if step else []
    show([*first, by, "ended", "failed", "failed %", "retried", "p50", "p95", "p99", "waited p95"],
         [(*([when(at)] if step else []), name, *_cells(states)) for at, name, states in rows],
         empty="Nothing ended in this time.",
         numbers=["ended", "failed", "failed %", "retried", "p50", "p95", "p99", "waited p95"])  # fmt: skip


def _step(text: str) -> int:
    try:
        return max(10, int(duration_of(text)))
    except ValueError as error:
        raise click.UsageError(f"--step: {error}") from None


def _count(states_: dict[str, Sums], state: str) -> int:
    return states_[state].n if state in states_ else 0


def _cells(states_: dict[str, Sums]) -> tuple[Any, ...]:
    every, failed, retried = sums_of(states_), _count(states_, states.FAILURE), _count(states_, states.RETRY)
    ended = every.n - retried
    share = f"{100 * failed / ended:.3g}" if ended and failed else ""
    times = [duration(every.runtime.percentile(of)) if every.runtime.n else "" for of in (0.50, 0.95, 0.99)]
    return ended, failed, share, retried, *times, duration(every.wait.percentile(0.95)) if every.wait.n else ""


# --- Failures by signature ----------------------------------------------------------------------------


@command.command("failures")
@click.option("--status", type=click.Choice(STATUSES), help="Only those that are open, resolved or muted.")
@click.option("--limit", metavar="N", type=WholeNumber(min=1), default=20, show_default=True, help="Show at most N.")
@click.option("--filter", "text", metavar="FILTER", help="As in 'task:shop.* error:ValueError since:1d'.")
@as_json
@with_session
def failures(session: Session, *, status: str | None, limit: int, text: str | None, as_json: bool) -> None:
    """Group failures by what causes them, the latest first.

    A signature stands for failures of one task with the same exception at the same place.

    \b
    Examples:
      celeriac -A shop stats failures --status open
    """
    chosen = parsed(session, text) if text else ANY
    known = session.run(history_of(session).signatures(chosen, status, limit))  # type: ignore[arg-type]
    if as_json:
        emit([failure_document(one) for one in known])
        return
    show(["signature", "task", "count", "retries", "first", "last", "status", "error"],
         [(one.signature, one.task, one.count, one.retries, when(one.first), when(one.last),
           "regressed" if one.regressed else one.status, one.title) for one in known],
         empty="There are no failures.", numbers=["count", "retries"])  # fmt: skip


@command.command("mark")
@click.argument("signature")
@click.argument("status", type=click.Choice(STATUSES))
@as_json
@with_session
@audited
def mark(session: Session, *, signature: str, status: str, as_json: bool) -> None:
    """Note that the failures of SIGNATURE are resolved or muted, or open again.

    A resolved one that occurs again is shown as regressed.

    \b
    Examples:
      celeriac -A shop stats mark 62f0a3eed2e81bd8 resolved
    """
    history, now = history_of(session), session.app.clock.now()
    if not session.run(history.mark(signature, status, operator(), now)):  # type: ignore[arg-type]
        raise click.ClickException(f"There is no failure signature {signature!r}. "
                                   f"`{session.celeriac('stats failures')}` lists them.")  # fmt: skip
    if as_json:
        emit({"signature": signature, "status": status})
    else:
        echo(f"{signature} is {status} now.")


# --- What operators did -------------------------------------------------------------------------------


@command.command("audit")
@click.option("--id", metavar="ID", help="Only about this task, queue, worker, schedule or bulk action.")
@click.option("--since", metavar="WHEN", help="Only since: 2h (ago), 2026-11-29, 2026-11-29T12:00.")
@click.option("--limit", metavar="N", type=WholeNumber(min=1), default=20, show_default=True, help="Show at most N.")
@as_json
@with_session
def audit(session: Session, *, id: str | None, since: str | None, limit: int, as_json: bool) -> None:
    """List what operators did, by commands and over HTTP: who, what and when, the latest first.

    \b
    Examples:
      celeriac -A shop stats audit --since 1d
    """
    try:
        begin = instant_of(since, session.app.clock.now()) if since else 0.0
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from None
    found = session.run(history_of(session).events(AUDITED, begin, limit, id))
    if as_json:
        emit([event_document(event) for event in found])
        return
    show(["time", "by", "kind", "about", "what"],
         [(when(event.at), event.by, event.kind, event.id, event.text) for event in found],
         empty="No operator has done anything.")  # fmt: skip
