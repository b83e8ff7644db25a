"""`celeriac worker`: parses the options, sets up logging, and runs a worker (`celeriac.worker`)."""

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
from celeriac.app.connections import shown
from celeriac.cli.log import stderr_handler
from celeriac.cli.output import LogFormatter
from celeriac.cli.session import Session, with_session
from celeriac.worker import WorkerOptions, run_worker
from celeriac.worker.options import listed

__all__ = ["command"]

EXIT_SECONDS = 1.0  # for the interpreter's own shutdown, before threads that are still running are abandoned
LEVELS = ("debug", "info", "warning", "error", "critical")


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("must be names separated by commas, for example mail,default")
    return names


CELERY_POOLS = {
    "prefork": "Celery's pool 'prefork' is called 'processes' here",
    "eventlet": "async def tasks need no special pool here: use 'processes'",
    "gevent": "async def tasks need no special pool here: use 'processes'",
}
"""Hints for the names of Celery's pools."""


class _Pool(click.Choice[str]):
    """A pool's name; for one of Celery's pools, the error names the replacement."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in CELERY_POOLS:
            self.fail(f"{CELERY_POOLS[value]}.", param, ctx)
        return super().convert(value, param, ctx)


def _no_beat(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        raise click.UsageError("This version has no schedules. Remove -B.")


@click.command("worker")
@click.option("-Q", "--queues", metavar="A,B", callback=_names,
              help="Receive from these queues.  [default: every queue that the app declares]")  # fmt: skip
@click.option("-c", "--concurrency", metavar="N", type=click.IntRange(min=1),
              help="Number of children for plain functions.  [default: one per core]")  # fmt: skip
@click.option("-P", "--pool", type=_Pool(["processes", "threads", "solo"]),
              help="Type of the children.  [default: processes]")  # fmt: skip
@click.option("-n", "--hostname", "name", metavar="NAME", help="The worker's name.  [default: APP@HOST.PID]")
@click.option("-l", "--loglevel", type=click.Choice(LEVELS, case_sensitive=False),
              help="Log messages of this level and above.  [default: warning]")  # fmt: skip
@click.option("--max-tasks-per-child", metavar="N", type=click.IntRange(min=1),
              help="Replace a child after N tasks.")  # fmt: skip
@click.option("--max-memory-per-child", metavar="KIB", type=click.IntRange(min=1),
              help="Replace a child whose peak memory exceeds this.")  # fmt: skip
@click.option("--grace", metavar="SECONDS", type=click.FloatRange(min=0),
              help="Time for running tasks to end when the worker stops.  [default: 25]")  # fmt: skip
@click.option("-B", "--beat", is_flag=True, hidden=True, expose_value=False, callback=_no_beat)
@with_session
def command(session: Session, *, queues: list[str] | None, concurrency: int | None, pool: str | None,
            name: str | None, loglevel: str | None, max_tasks_per_child: int | None,
            max_memory_per_child: int | None, grace: float | None) -> None:  # fmt: skip
    """Run a worker until it is stopped.

    On SIGTERM or Ctrl-C the worker stops receiving, gives running tasks the grace time to end, and returns the
    rest to the broker. On a second signal it stops at once.

    \b
    Examples:
      celeriac -A shop worker
      celeriac -A shop worker -Q mail,default -c 4
      celeriac -A shop worker --pool threads --loglevel info

    \b
    Exit codes:
      0  the worker was stopped, and every message is settled or back in the broker
      1  the worker could not start, or could not continue
      2  the command line or the app is invalid
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
    _exit_soon(code)
    click.get_current_context().exit(code)


def _announce(app: Celeriac, options: WorkerOptions, **more: Any) -> None:
    """Print the banner once the worker is ready."""
    children = [f"{1 if options.pool == 'solo' else options.concurrency} for plain functions"]
    if options.coroutine_children:
        children.append(f"{options.coroutine_children} for {options.coroutine_concurrency} coroutines at a time")
    results = app.conf.result_backend
    facts = {
        "app": f"{app.main}, {len(app.tasks)} task{'' if len(app.tasks) == 1 else 's'}",
        "broker": shown(app.broker_url),
        "results": shown(results) if results else "with the broker",
        "queues": listed(options.queues),
        options.pool: "; ".join(children),
    }
    lines = [f"celeriac {__version__}: the worker {options.name} is ready. Ctrl-C stops it."]
    lines += [f"  {name:<10} {fact}" for name, fact in facts.items()]
    # Through the non-blocking handler: tasks may already have filled the pipe.
    stderr_handler().emit(logging.makeLogRecord({"msg": "\n".join(lines)}))


def _open_outputs() -> None:
    """Replace a closed stdout or stderr with /dev/null."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - stays open
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def _exit_soon(code: int) -> None:
    """Exit even if tasks have left threads running: the interpreter would wait for non-daemon threads."""
    if threading.active_count() > 1:
        timer = threading.Timer(EXIT_SECONDS, os._exit, (code,))
        timer.daemon = True
        timer.start()


def _configure_logging(level: str | None) -> None:
    """Log Celeriac's messages to stderr, unless the app has configured logging; never touch the root logger."""
    logger = logging.getLogger("celeriac")
    if logger.hasHandlers():
        if level is not None:
            logger.setLevel(level.upper())
        return
    handler = stderr_handler()
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel((level or "warning").upper())
