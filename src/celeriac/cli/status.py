"""`celeriac status`: the running workers, and the length of every queue."""

from __future__ import annotations

from typing import Any, NamedTuple

import click
import msgspec

from celeriac.cli.documents import as_json, emit
from celeriac.cli.numbers import Number
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import duration, show, tell_uncounted
from celeriac.documents import instant
from celeriac.errors import CeleriacError
from celeriac.inspector import Answers, Inspector, WorkerStats
from celeriac.ports.operations import QueueCounts, WorkerInfo, labelled

__all__ = ["command"]


@click.command("status")
@click.option("-t", "--timeout", metavar="SECONDS", type=Number(min=0), default=2.0, show_default=True,
              help="How long to wait for workers to reply.")  # fmt: skip
@as_json
@with_session
def command(session: Session, *, timeout: float, as_json: bool) -> None:
    """Show workers and queues.

    \b
    Examples:
      celeriac -A shop status
      celeriac -A shop status --json | jq '.queues[] | select(.ready > 1000)'

    \b
    Exit codes:
      0  at least one worker replied
      1  no worker replied, or none could be asked
    """
    seen = session.run(_look(session.inspector(timeout=timeout)))
    answers, queues = seen.answers, seen.queues
    workers = {label: _updated(worker, answers.values.get(label)) for label, worker in labelled(seen.workers).items()}
    if as_json:
        emit({"workers": [_document(label, worker, answers) for label, worker in workers.items()],
              "queues": [msgspec.to_builtins(queue) for queue in queues]})  # fmt: skip
    else:
        show(["worker", "state", "pid", "host", "queues", "running", "up"],
             [_row(label, worker, seen) for label, worker in workers.items()], title="Workers", empty="None.",
             numbers=["pid", "running"])  # fmt: skip
        echo()
        served = {queue for worker in workers.values() for queue in worker.queues}
        show(["queue", "ready", "scheduled", "active", "dead", "state"],
             [(queue.queue, queue.shown(queue.ready), queue.scheduled, queue.active, queue.shown(queue.dead),
               _state(queue, served)) for queue in queues],
             title="Queues", numbers=["ready", "scheduled", "active", "dead"])  # fmt: skip
        tell_uncounted(queues)
    if seen.error is not None:
        echo(f"Error: The workers cannot be asked: {seen.error}", err=True)
        click.get_current_context().exit(1)
    if not answers.heard:
        what = "No worker replies" if workers else "No worker is running"
        echo(f"Error: {what}. Start one: {session.celeriac('worker')}", err=True)
        click.get_current_context().exit(1)


class _Seen(NamedTuple):
    """What was found out."""

    workers: list[WorkerInfo]
    answers: Answers[WorkerStats]
    queues: list[QueueCounts]
    error: CeleriacError | None  # why the workers cannot be asked


async def _look(inspector: Inspector) -> _Seen:
    """Look at workers and queues, and ask the workers: that writes to the broker, whose disk may be full."""
    workers, queues = await inspector.workers(), await inspector.queues()
    try:
        return _Seen(workers, await inspector.stats(), queues, None)
    except CeleriacError as error:
        return _Seen(workers, Answers({}), queues, error)


def _updated(worker: WorkerInfo, stats: WorkerStats | None) -> WorkerInfo:
    """Return a worker with its current queues and capacity: the lease has those from when the worker started."""
    if stats is None:
        return worker
    queues = worker.queues if stats.queues is None else stats.queues
    return msgspec.structs.replace(worker, queues=queues, concurrency=stats.capacity)


def _running(stats: WorkerStats | None) -> int | None:
    return None if stats is None else sum(child.running for child in stats.pool.children)


def _row(label: str, worker: WorkerInfo, seen: _Seen) -> tuple[Any, ...]:
    stats = seen.answers.values.get(label)
    if seen.error is not None:
        state = "not asked"
    else:
        state = "ready" if stats is not None else "replies with an error" if label in seen.answers.errors else "silent"
    busy = "" if stats is None else f"{_running(stats)} of {sum(stats.capacity.values())}"
    return (label, state, str(worker.pid), worker.host, ", ".join(worker.queues), busy,
            duration(stats.uptime if stats is not None else None))  # fmt: skip


def _state(queue: QueueCounts, served: set[str]) -> str:
    if queue.paused:
        return "paused"
    return "open" if queue.queue in served else "no worker"


def _document(label: str, worker: WorkerInfo, answers: Answers[WorkerStats]) -> dict[str, Any]:
    stats = answers.values.get(label)
    return {
        **msgspec.to_builtins(worker),
        "started_at": instant(worker.started_at),
        "renewed_at": instant(worker.renewed_at),
        "expires_at": instant(worker.expires_at),
        "answers": stats is not None or label in answers.errors,
        "running": _running(stats),
        "uptime": None if stats is None else stats.uptime,
    }
