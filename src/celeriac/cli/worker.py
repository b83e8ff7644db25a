"""`celeriac worker`: the door to `celeriac.worker`."""

from __future__ import annotations

import logging
import os
import sys
import threading
from functools import partial
from typing import Any

import click

from celeriac import __version__, signals
from celeriac.app.app import Celeriac
from celeriac.cli.log import stderr_handler
from celeriac.cli.masks import masked
from celeriac.cli.session import Session, with_session
from celeriac.worker import WorkerOptions, run_worker
from celeriac.worker.options import listed

__all__ = ["command"]

LEAVE_SECONDS = 1.0  # for what is to be done at the interpreter's end, if threads go on that nobody ends
LEVELS = ("debug", "info", "warning", "error", "critical")


def _words(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    words = [word.strip() for word in value.split(",") if word.strip()]
    if not words:
        raise click.BadParameter("takes names separated by commas: mail,default")
    return words


POOLS = {
    "prefork": "Celery's prefork is processes here",
    "eventlet": "async def tasks need no pool of their own here: take processes",
    "gevent": "async def tasks need no pool of their own here: take processes",
}
"""Celery's pools, and what is to be said of them."""


class _Pool(click.Choice[str]):
    """A pool's name; of one of Celery's, what it is here."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in POOLS:
            self.fail(f"{POOLS[value]}.", param, ctx)
        return super().convert(value, param, ctx)


def _no_beat(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        raise click.UsageError("Schedules are not part of this version: there is no -B.")


@click.command("worker")
@click.option("-Q", "--queues", metavar="A,B", callback=_words,
              help="Receive from these queues.  [default: every queue that the app declares]")  # fmt: skip
@click.option("-c", "--concurrency", metavar="N", type=click.IntRange(min=1),
              help="Children for plain functions.  [default: one per core]")  # fmt: skip
@click.option("-P", "--pool", type=_Pool(["processes", "threads", "solo"]),
              help="What the children are.  [default: processes]")  # fmt: skip
@click.option("-n", "--hostname", "name", metavar="NAME", help="The worker's name.  [default: APP@HOST.PID]")
@click.option("-l", "--loglevel", type=click.Choice(LEVELS, case_sensitive=False), help="[default: warning]")
@click.option("--max-tasks-per-child", metavar="N", type=click.IntRange(min=1),
              help="Replace a child after so many tasks.")  # fmt: skip
@click.option("--max-memory-per-child", metavar="KIB", type=click.IntRange(min=1),
              help="Replace a child whose memory passes this.")  # fmt: skip
@click.option("--grace", metavar="SECONDS", type=click.FloatRange(min=0),
              help="How long running tasks may take to end when the worker stops.  [default: 25]")  # fmt: skip
@click.option("-B", "--beat", is_flag=True, hidden=True, expose_value=False, callback=_no_beat)
@with_session
def command(session: Session, *, queues: list[str] | None, concurrency: int | None, pool: str | None,
            name: str | None, loglevel: str | None, max_tasks_per_child: int | None,
            max_memory_per_child: int | None, grace: float | None) -> None:  # fmt: skip
    """Run a worker, until it is told to stop.

    SIGTERM or Ctrl-C: it receives no more, lets running tasks end within the grace time, and gives the rest
    back to the broker. A second one: it stops at once.

    \b
    Examples:
      celeriac -A shop worker
      celeriac -A shop worker -Q mail,default -c 4
      celeriac -A shop worker --pool threads --loglevel info

    \b
    Exit codes:
      0  it was told to stop, and everything is settled or given back
      1  it could not start, or not go on
      2  the command line, or the app that it names, is wrong
    """
    _open_outputs()
    _configure_logging(loglevel)
    options = WorkerOptions.of(session.app, name=name, queues=queues, concurrency=concurrency, pool=pool,
                               grace_seconds=grace, max_tasks_per_child=max_tasks_per_child,
                               max_memory_per_child=max_memory_per_child)  # fmt: skip
    banner = partial(_announce, session.app, options)
    signals.worker_ready.connect(banner)
    try:
        code = run_worker(session.app, options)
    finally:
        signals.worker_ready.disconnect(banner)
    _leave_soon(code)
    click.get_current_context().exit(code)


def _announce(app: Celeriac, options: WorkerOptions, **more: Any) -> None:
    """Say, when the worker receives, what it is."""
    children = [f"{1 if options.pool == 'solo' else options.concurrency} for plain functions"]
    if options.coroutine_children:
        children.append(f"{options.coroutine_children} for {options.coroutine_concurrency} coroutines at a time")
    results = app.conf.result_backend
    facts = {
        "app": f"{app.main}, {len(app.tasks)} task{'' if len(app.tasks) == 1 else 's'}",
        "broker": masked(app.broker_url),
        "results": masked(results) if results else "with the broker",
        "queues": listed(options.queues),
        options.pool: "; ".join(children),
    }
    lines = [f"celeriac {__version__}: the worker {options.name} is ready. Ctrl-C stops it."]
    lines += [f"  {name:<10} {fact}" for name, fact in facts.items()]
    stderr_handler().emit(logging.makeLogRecord({"msg": "\n".join(lines)}))  # tasks may have filled the pipe already


def _open_outputs() -> None:
    """Where stdout or stderr is closed, write to nowhere."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - they stay open
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _leave_soon(code: int) -> None:
    """Let the process end though threads go on that tasks have left: the interpreter waits for many of them."""
    if threading.active_count() > 1:
        timer = threading.Timer(LEAVE_SECONDS, os._exit, (code,))
        timer.daemon = True
        timer.start()


def _configure_logging(level: str | None) -> None:
    """Show Celeriac's own messages, unless the user's own logging does; the root logger is theirs."""
    logger = logging.getLogger("celeriac")
    if logger.hasHandlers():
        if level is not None:
            logger.setLevel(level.upper())
        return
    handler = stderr_handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel((level or "warning").upper())
