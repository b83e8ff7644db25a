"""`celeriac control …`: commands to running workers."""

from __future__ import annotations

from signal import Signals
from typing import Any

import click
import msgspec

from celeriac.cli.answers import asks, conclude, emit_answers
from celeriac.cli.audit import audited
from celeriac.cli.celery_options import CONTROL, CeleryGroup
from celeriac.cli.documents import as_json, emit
from celeriac.cli.endings import report_revoked
from celeriac.cli.numbers import Number, WholeNumber
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.inspector import Answers
from celeriac.model.options import check_limits
from celeriac.model.options import rate as check_rate

__all__ = ["command"]


@click.group("control", cls=CeleryGroup, hints=CONTROL)
def command() -> None:
    """Send commands to running workers.

    \b
    Examples:
      celeriac -A shop control rate-limit shop.send 10/s
      celeriac -A shop control pool-grow 2 --destination shop@host.4242
      celeriac -A shop control shutdown

    \b
    Exit codes:
      0  every worker has carried out the command
      1  a worker failed or did not reply, or none is running
    """


def _report(session: Session, answers: Answers[Any], as_json: bool) -> None:
    if as_json:
        emit_answers(answers)
    else:
        for worker, value in answers.values.items():
            reply = value.get("ok", value) if isinstance(value, dict) else value
            text = reply if isinstance(reply, str) else msgspec.json.encode(reply).decode()
            echo(f"{worker}: {text}")
    conclude(session, answers)


@command.command("terminate")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@asks
@as_json
@with_session
@audited
def terminate(session: Session, *, ids: tuple[str, ...], destination: tuple[str, ...], timeout: float,
              as_json: bool) -> None:  # fmt: skip
    """Revoke tasks, and terminate their running attempts.

    \b
    Examples:
      celeriac -A shop control terminate 0197a1b2-…
    """
    if ids[0] in Signals.__members__:  # Celery's first argument
        raise click.UsageError(f"Leave {ids[0]} out: only ids are given. The attempts end, and nothing else does.")
    _report(session, session.run(session.inspector(destination, timeout).terminate(ids)), as_json)


@command.command("revoke")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@as_json
@with_session
@audited
def revoke(session: Session, *, ids: tuple[str, ...], as_json: bool) -> None:
    """Prevent tasks from starting on any worker.

    The broker stores the revocation for a week, so it also applies to workers that start later.

    \b
    Examples:
      celeriac -A shop control revoke 0197a1b2-… 0197a1b3-…
    """
    session.run(session.inspector().revoke(ids))
    if as_json:
        emit({"revoked": ids})
    else:
        report_revoked(session, len(ids), ids)


@command.command("rate-limit")
@click.argument("task")
@click.argument("rate")
@asks
@as_json
@with_session
@audited
def rate_limit(session: Session, *, task: str, rate: str, destination: tuple[str, ...], timeout: float,
               as_json: bool) -> None:  # fmt: skip
    """Limit how often each worker starts TASK.

    RATE is a number per second, minute or hour (10/s, 100/m, 5/h), or none for no limit.

    \b
    Examples:
      celeriac -A shop control rate-limit shop.send 100/m
      celeriac -A shop control rate-limit shop.send none
    """
    limit = None if rate.lower() in ("none", "0") else rate
    if limit is not None:
        try:
            check_rate(limit)
        except ValueError as error:
            raise click.BadParameter(f"{error}; or none, for no limit", param_hint="RATE") from None
    _report(session, session.run(session.inspector(destination, timeout).rate_limit(task, limit)), as_json)


@command.command("time-limit")
@click.argument("task")
@click.option("--soft", metavar="SECONDS", type=Number(min=0, min_open=True),
              help="Raise SoftTimeLimitExceeded after this.")
@click.option("--hard", metavar="SECONDS", type=Number(min=0, min_open=True), help="Terminate the attempt after this.")
@asks
@as_json
@with_session
@audited
def time_limit(session: Session, *, task: str, soft: float | None, hard: float | None,
               destination: tuple[str, ...], timeout: float, as_json: bool) -> None:  # fmt: skip
    """Set TASK's time limits, for attempts that start from now on. A limit that is left out is removed.

    \b
    Examples:
      celeriac -A shop control time-limit shop.report --soft 50 --hard 60
    """
    try:
        check_limits(soft, hard)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _report(session, session.run(session.inspector(destination, timeout).time_limit(task, soft, hard)), as_json)


@command.command("pool-grow")
@click.argument("n", type=WholeNumber(min=1), default=1)
@asks
@as_json
@with_session
@audited
def pool_grow(session: Session, *, n: int, destination: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Add N children for plain functions.

    \b
    Examples:
      celeriac -A shop control pool-grow 2
    """
    _report(session, session.run(session.inspector(destination, timeout).pool_grow(n)), as_json)


@command.command("pool-shrink")
@click.argument("n", type=WholeNumber(min=1), default=1)
@asks
@as_json
@with_session
@audited
def pool_shrink(session: Session, *, n: int, destination: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Remove N children for plain functions, each as soon as it is idle.

    \b
    Examples:
      celeriac -A shop control pool-shrink 2
    """
    _report(session, session.run(session.inspector(destination, timeout).pool_shrink(n)), as_json)


@command.command("add-consumer")
@click.argument("queue")
@asks
@as_json
@with_session
@audited
def add_consumer(session: Session, *, queue: str, destination: tuple[str, ...], timeout: float,
                 as_json: bool) -> None:  # fmt: skip
    """Make workers also receive from QUEUE.

    \b
    Examples:
      celeriac -A shop control add-consumer mail -d shop@host.4242
    """
    _report(session, session.run(session.inspector(destination, timeout).add_consumer(queue)), as_json)


@command.command("cancel-consumer")
@click.argument("queue")
@asks
@as_json
@with_session
@audited
def cancel_consumer(session: Session, *, queue: str, destination: tuple[str, ...], timeout: float,
                    as_json: bool) -> None:  # fmt: skip
    """Make workers stop receiving from QUEUE.

    \b
    Examples:
      celeriac -A shop control cancel-consumer mail
    """
    _report(session, session.run(session.inspector(destination, timeout).cancel_consumer(queue)), as_json)


@command.command("log-level")
@click.argument("level", type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False))
@asks
@as_json
@with_session
@audited
def log_level(session: Session, *, level: str, destination: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Set the log level of workers.

    \b
    Examples:
      celeriac -A shop control log-level debug
    """
    _report(session, session.run(session.inspector(destination, timeout).log_level(level)), as_json)


@command.command("shutdown")
@asks
@as_json
@with_session
@audited
def shutdown(session: Session, *, destination: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Stop workers as SIGTERM does: running tasks get their grace time.

    \b
    Examples:
      celeriac -A shop control shutdown
      celeriac -A shop control shutdown -d shop@host.4242
    """
    _report(session, session.run(session.inspector(destination, timeout).shutdown()), as_json)
