"""`celeriac purge`: deletes the waiting messages of queues."""

from __future__ import annotations

import click

from celeriac.cli.audit import audited
from celeriac.cli.documents import as_json, emit
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.inspector import Inspector
from celeriac.ports.operations import QueueCounts

__all__ = ["command"]


@click.command("purge")
@click.argument("queues", nargs=-1, metavar="[QUEUE...]")
@click.option("--all", "of_all", is_flag=True, help="Purge every queue: those that the app declares, and any others.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@as_json
@with_session
@audited
def command(session: Session, *, queues: tuple[str, ...], of_all: bool, yes: bool, as_json: bool) -> None:
    """Delete all waiting messages of queues, ready and scheduled. They cannot be recovered.

    Their tasks end as REVOKED. Running tasks continue, and dead letters are kept.

    \b
    Examples:
      celeriac -A shop purge mail
      celeriac -A shop purge mail default --yes
      celeriac -A shop purge --all

    \b
    Exit codes:
      0  success
      1  failure, or not confirmed
      2  the command line or the app is invalid
    """
    if of_all == bool(queues):
        raise click.UsageError("Give the names of queues, or --all.")
    inspector = session.inspector()
    counts = session.run(_counts(inspector, queues))
    queues = tuple(count.queue for count in counts)
    if not yes:
        waiting = ", ".join(f"{_waiting(count)} in {count.queue}" for count in counts)
        click.confirm(f"Delete all waiting messages ({waiting})? They cannot be recovered.", abort=True, err=True)
    dropped = session.run(inspector.purge(queues))
    if as_json:
        emit({"dropped": dropped})
    else:
        for queue, count in dropped.items():
            echo(f"Dropped {count:,} from {queue}.")


def _waiting(count: QueueCounts) -> str:
    waiting = f"{count.ready + count.scheduled:,}"
    return waiting if not count.uncounted else f"at least {waiting}"


async def _counts(inspector: Inspector, queues: tuple[str, ...]) -> list[QueueCounts]:
    await inspector.check_queues(queues)
    return [counts for counts in await inspector.queues() if not queues or counts.queue in queues]
