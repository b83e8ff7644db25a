"""`celeriac queues`: queues and dead letters."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

import click
import msgspec

from celeriac.cli.audit import audited
from celeriac.cli.documents import as_json, emit
from celeriac.cli.numbers import WholeNumber
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import call, show, tell_uncounted, when
from celeriac.documents import call_of, dead_document, message_document

if TYPE_CHECKING:
    from celeriac.inspector import Inspector

__all__ = ["command"]

BATCH = 1000  # dead letters that --all handles in one step


@click.group("queues", invoke_without_command=True)
@as_json
@with_session
def command(session: Session, *, as_json: bool) -> None:
    """Count the messages of every queue, or peek at, pause and resume queues, and manage dead letters.

    \b
    Examples:
      celeriac -A shop queues
      celeriac -A shop queues peek mail
      celeriac -A shop queues pause mail
      celeriac -A shop queues dead resend --all

    \b
    Exit codes:
      0  success
      1  failure; the reason is on stderr
      2  the command line or the app is invalid
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    queues = session.run(session.inspector().queues())
    if as_json:
        emit([msgspec.to_builtins(queue) for queue in queues])
        return
    show(["queue", "ready", "scheduled", "active", "dead", "paused"],
         [(queue.queue, queue.shown(queue.ready), queue.scheduled, queue.active, queue.shown(queue.dead), queue.paused)
          for queue in queues],
         empty="There are no queues.", numbers=["ready", "scheduled", "active", "dead"])  # fmt: skip
    tell_uncounted(queues)


@command.command("peek")
@click.argument("queue")
@click.option("--limit", metavar="N", type=WholeNumber(min=1), default=20, show_default=True, help="Show at most N.")
@click.option("--offset", metavar="N", type=WholeNumber(min=0), default=0, help="Skip the first N.")
@as_json
@with_session
def peek(session: Session, *, queue: str, limit: int, offset: int, as_json: bool) -> None:
    """Show the messages that workers will receive next from QUEUE.

    The messages stay in the queue.

    \b
    Examples:
      celeriac -A shop queues peek mail --limit 5
    """
    messages = session.run(session.inspector().peek(queue, limit, offset))
    if as_json:
        emit([message_document(message, session.app) for message in messages])
        return
    show(["id", "sent", "priority", "attempt", "call"],
         [(message.id, when(message.sent_at), message.priority, message.attempt,
           f"{message.task}({call(call_of(message, session.app))})") for message in messages],
         empty=f"No message is waiting in {queue}.", numbers=["priority", "attempt"])  # fmt: skip


@command.command("pause")
@click.argument("queues", nargs=-1, required=True, metavar="QUEUE...")
@as_json
@with_session
@audited
def pause(session: Session, *, queues: tuple[str, ...], as_json: bool) -> None:
    """Stop all workers from receiving from queues until they are resumed. Running tasks continue.

    \b
    Examples:
      celeriac -A shop queues pause mail
    """
    session.run(session.inspector().pause(queues))
    if as_json:
        emit({"paused": queues})
    else:
        echo(f"Paused {', '.join(queues)}. To resume: {session.celeriac('queues resume ' + ' '.join(queues))}")


@command.command("resume")
@click.argument("queues", nargs=-1, required=True, metavar="QUEUE...")
@as_json
@with_session
@audited
def resume(session: Session, *, queues: tuple[str, ...], as_json: bool) -> None:
    """Resume paused queues.

    \b
    Examples:
      celeriac -A shop queues resume mail
    """
    session.run(session.inspector().resume(queues))
    if as_json:
        emit({"resumed": queues})
    else:
        echo(f"Resumed {', '.join(queues)}.")


# --- Dead letters -------------------------------------------------------------------------------------


@command.group("dead", invoke_without_command=True)
@with_session
def dead(session: Session) -> None:
    """List, resend or delete dead letters: messages that workers gave up on.

    \b
    Examples:
      celeriac -A shop queues dead
      celeriac -A shop queues dead resend 0197a1b2-…
      celeriac -A shop queues dead drop --all --queue mail
    """
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        context.invoke(list_dead)


@dead.command("list")
@click.option("-q", "--queue", metavar="NAME", help="Only this queue.")
@click.option("--limit", metavar="N", type=WholeNumber(min=1), default=20, show_default=True, help="Show at most N.")
@click.option("--offset", metavar="N", type=WholeNumber(min=0), default=0, help="Skip the first N.")
@as_json
@with_session
def list_dead(session: Session, *, queue: str | None = None, limit: int = 20, offset: int = 0,
              as_json: bool = False) -> None:  # fmt: skip
    """Show dead letters and the reason for each, newest first.

    \b
    Examples:
      celeriac -A shop queues dead list --queue mail
    """
    found = session.run(session.inspector().dead(queue, limit, offset))
    if as_json:
        emit([dead_document(letter, session.app) for letter in found])
        return
    show(["id", "queue", "since", "reason", "call"],
         [(letter.message.id, letter.message.queue, when(letter.at), letter.reason,
           f"{letter.message.task}({call(call_of(letter.message, session.app))})") for letter in found],
         empty="There are no dead letters.")  # fmt: skip


@dead.command("resend")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@click.option("-q", "--queue", metavar="NAME", help="With --all: only this queue.")
@as_json
@with_session
@audited
def resend(session: Session, *, ids: tuple[str, ...], every: bool, queue: str | None, as_json: bool) -> None:
    """Return dead letters to their queues as new messages.

    \b
    Examples:
      celeriac -A shop queues dead resend 0197a1b2-…
      celeriac -A shop queues dead resend --all --queue mail
    """
    _report("resent", *session.run(_each(session, "resend", ids, every, queue)), as_json)


@dead.command("drop")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All dead letters.")
@click.option("-q", "--queue", metavar="NAME", help="With --all: only this queue.")
@as_json
@with_session
@audited
def drop(session: Session, *, ids: tuple[str, ...], every: bool, queue: str | None, as_json: bool) -> None:
    """Delete dead letters.

    \b
    Examples:
      celeriac -A shop queues dead drop 0197a1b2-…
    """
    _report("dropped", *session.run(_each(session, "drop", ids, every, queue)), as_json)


async def _each(session: Session, what: str, ids: tuple[str, ...], every: bool,
                queue: str | None) -> tuple[int, list[str]]:  # fmt: skip
    """Resend or drop dead letters; return how many there were, and the ids that are not dead letters."""
    if bool(ids) == every:
        raise click.UsageError("Give either the ids of dead letters or --all.")
    if queue is not None and not every:
        raise click.UsageError("--queue needs --all.")
    inspector = session.inspector()
    act = inspector.resend if what == "resend" else inspector.drop
    if ids:
        ids = tuple(dict.fromkeys(ids))
        missing = [id for id in ids if not await act([id])]
        return len(ids) - len(missing), missing
    done, seen = 0, set[str]()
    while fresh := await _dead(inspector, queue, seen):
        seen.update(fresh)  # what is resent may be a dead letter again, before the others have their turn
        for start in range(0, len(fresh), BATCH):
            done += await act(fresh[start : start + BATCH])
    return done, []


async def _dead(inspector: Inspector, queue: str | None, seen: Set[str]) -> list[str]:
    """Return the ids of the dead letters that were not seen before. A server may show a part of them at a time."""
    found: dict[str, None] = {}
    offset = 0
    while letters := await inspector.dead(queue, BATCH, offset):
        found.update((letter.message.id, None) for letter in letters if letter.message.id not in seen)
        offset += len(letters)
    return list(found)


def _report(what: str, count: int, missing: list[str], as_json: bool) -> None:
    if as_json:
        emit({what: count})
    else:
        echo(f"{what.capitalize()} {count:,}.")
    for id in missing:
        echo(f"Error: {id} is not a dead letter.", err=True)
    if missing:
        click.get_current_context().exit(1)
