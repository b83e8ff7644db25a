"""Shared by `inspect` and `control`: their options, their JSON output, and errors about workers that did not reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from celeriac.cli.documents import emit
from celeriac.cli.numbers import Number
from celeriac.cli.output import echo
from celeriac.cli.session import Session
from celeriac.documents import answers_document
from celeriac.inspector import Answers

__all__ = ["asks", "conclude", "emit_answers"]

Command = TypeVar("Command", bound=Callable[..., Any])


def asks(command: Command) -> Command:
    """Add `--destination` and `--timeout` to a command."""
    for option in (
        click.option("-t", "--timeout", metavar="SECONDS", type=Number(min=0), default=2.0,
                     show_default=True, help="How long to wait for workers to reply."),
        click.option("-d", "--destination", metavar="WORKER", multiple=True,
                     help="Address this worker; can be repeated.  [default: all]"),
    ):  # fmt: skip
        command = option(command)
    return command


def emit_answers(answers: Answers[Any]) -> None:
    """Print replies as one JSON document: values by worker, errors, and workers that did not reply."""
    emit(answers_document(answers))


def conclude(session: Session, answers: Answers[Any]) -> None:
    """Print errors to stderr; exit with 1 unless every worker asked has replied without an error."""
    for worker, error in answers.errors.items():
        echo(f"Error: {worker}: {error}", err=True)
    for worker in answers.silent:
        lease = session.app.conf.worker_lease_seconds
        echo(f"Error: {worker} did not reply in time: it may be suspended, or it died within the last "
                   f"{lease:g} s.", err=True)  # fmt: skip
    for worker in answers.unknown:
        echo(
            f"Error: No worker named {worker!r} is running. `{session.celeriac('status')}` lists them.", err=True
        )
    missing = bool(answers.errors or answers.silent or answers.unknown)
    if not answers.values and not missing:
        echo(f"Error: No worker is running. Start one: {session.celeriac('worker')}", err=True)
        missing = True
    if missing:
        click.get_current_context().exit(1)
