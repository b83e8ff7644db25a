"""Asking workers from the command line: the options for it, and how what is missing is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from celeriac.cli.documents import emit
from celeriac.cli.session import Session
from celeriac.inspector import Answers

__all__ = ["asks", "conclude", "emit_answers"]

Command = TypeVar("Command", bound=Callable[..., Any])


def asks(command: Command) -> Command:
    """Add `--destination` and `--timeout` to a command."""
    for option in (
        click.option("-t", "--timeout", metavar="SECONDS", type=click.FloatRange(min=0), default=2.0,
                     show_default=True, help="How long workers may take to answer."),
        click.option("-d", "--destination", metavar="WORKER", multiple=True,
                     help="Ask this worker; may be given again.  [default: all]"),
    ):  # fmt: skip
        command = option(command)
    return command


def emit_answers(answers: Answers[Any]) -> None:
    """Print answers as one JSON document: the values by worker, and what is missing."""
    emit({"workers": msgspec.to_builtins(answers.values), "errors": answers.errors,
          "silent": answers.silent, "unknown": answers.unknown})  # fmt: skip


def conclude(session: Session, answers: Answers[Any]) -> None:
    """Tell on stderr who did not answer; exit with 1 unless every worker that was asked did."""
    for worker, error in answers.errors.items():
        click.echo(f"Error: {worker}: {error}", err=True)
    for worker in answers.silent:
        lease = session.app.conf.worker_lease_seconds
        click.echo(f"Error: {worker} did not answer in time; it may be suspended, or it died within the last "
                   f"{lease:g} s.", err=True)  # fmt: skip
    for worker in answers.unknown:
        click.echo(
            f"Error: No worker named {worker!r} is running. `{session.celeriac('status')}` lists them.", err=True
        )
    missing = bool(answers.errors or answers.silent or answers.unknown)
    if not answers.values and not missing:
        click.echo(f"Error: No worker is running. Start one: {session.celeriac('worker')}", err=True)
        missing = True
    if missing:
        click.get_current_context().exit(1)
