"""`celeriac worker`: parses the options, sets up logging, and runs a worker (`celeriac.worker`)."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from celeriac import __version__, signals
from celeriac.app.app import Celeriac
from celeriac.app.connections import shown
from celeriac.cli.banner import show_banner
from celeriac.cli.celery_options import POOLS, WORKER, refused_options
from celeriac.cli.lazy import FOLDER
from celeriac.cli.log import set_up_logging
from celeriac.cli.numbers import Number, WholeNumber
from celeriac.cli.options import log_options
from celeriac.cli.session import Session, with_session
from celeriac.lazy import LazyModule
from celeriac.model.options import text
from celeriac.worker import WorkerOptions, run_worker
from celeriac.worker.options import listed

if TYPE_CHECKING:
    from celeriac.cli import beat as beats
    from celeriac.cli import reload as reloading
else:  # for --beat and --reload
    beats = LazyModule("celeriac.cli.beat")
    reloading = LazyModule("celeriac.cli.reload")

__all__ = ["command"]

NAME_PART = re.compile("%(.)")
EXIT_SECONDS = 1.0  # for the interpreter's own shutdown, before threads that are still running are abandoned


def _name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return the worker's name, in which %h, %n and %d stand for the host, its name and its domain, as in Celery."""
    if not value:
        return None
    host = socket.gethostname()
    short, _, domain = host.partition(".")
    parts = {"h": host, "n": short, "d": domain, "%": "%"}
    if unknown := next((letter for letter in NAME_PART.findall(value) if letter not in parts), None):
        raise click.BadParameter(f"%{unknown} means nothing in a name: %h is the host, %n its name without the domain, "
                                 "%d the domain, %% a percent sign.")  # fmt: skip
    if not value.isprintable():
        raise click.BadParameter(f"a name has no line breaks and other control characters: {value!r}.")
    try:
        return text(NAME_PART.sub(lambda found: parts[found[1]], value), "the name")
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("must be names separated by commas, for example mail,default")
    return names


def _address(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, int] | None:
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise click.BadParameter(f"must be an address and a port, such as 127.0.0.1:9540 or [::]:9540, not {value!r}")
    return host.removeprefix("[").removesuffix("]"), int(port)


class _Pool(click.Choice[str]):
    """A pool's name; for one of Celery's pools, the error names the replacement."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in POOLS:
            self.fail(f"{POOLS[value]}.", param, ctx)
        return super().convert(value, param, ctx)


@click.command("worker")
@click.option("-Q", "--queues", metavar="A,B", callback=_names,
              help="Receive from these queues.  [default: every queue that the app declares]")  # fmt: skip
@click.option("-c", "--concurrency", metavar="N", type=WholeNumber(min=1),
              help="Number of children for plain functions.  [default: one per core]")  # fmt: skip
@click.option("-P", "--pool", type=_Pool(["processes", "threads", "solo"]),
              help="Type of the children.  [default: processes]")  # fmt: skip
@click.option("-n", "--hostname", "name", metavar="NAME", callback=_name,
              help="The worker's name; %h in it is the host's, %n without its domain, %d the domain.  "
                   "[default: APP@HOST.PID]")  # fmt: skip
@click.option("-B", "--beat", is_flag=True, help="Also run a scheduler. Any number of workers may do so.")
@log_options
@click.option("--max-tasks-per-child", metavar="N", type=WholeNumber(min=1),
              help="Replace a child after N tasks.")  # fmt: skip
@click.option("--max-memory-per-child", metavar="KIB", type=WholeNumber(min=1),
              help="Replace a child whose peak memory exceeds this.")  # fmt: skip
@click.option("--grace", metavar="SECONDS", type=Number(min=0),
              help="Time for running tasks to end when the worker stops.  [default: 25]")  # fmt: skip
@click.option("--metrics", metavar="HOST:PORT", callback=_address,
              help="Serve the worker's metrics for Prometheus, as in 127.0.0.1:9540.")  # fmt: skip
@click.option("--reload", is_flag=True,
              help="For development: replace the worker when a .py or .toml file of this folder changes.")  # fmt: skip
@refused_options(WORKER)
@with_session
def command(session: Session, *, queues: list[str] | None, concurrency: int | None, pool: str | None,
            name: str | None, beat: bool, loglevel: str | None, log_format: str | None,
            max_tasks_per_child: int | None, max_memory_per_child: int | None, grace: float | None,
            metrics: tuple[str, int] | None, reload: bool) -> None:  # fmt: skip
    """Run a worker until it is stopped.

    On SIGTERM or Ctrl-C the worker stops receiving, gives running tasks the grace time to end, and returns the
    rest to the broker. On a second signal it stops at once.

    \b
    Examples:
      celeriac -A shop worker
      celeriac -A shop worker -Q mail,default -c 4
      celeriac -A shop worker --pool threads --loglevel info
      celeriac -A shop worker --beat
      celeriac -A shop worker --metrics 127.0.0.1:9540
      celeriac -A shop worker --reload

    \b
    Exit codes:
      0  the worker was stopped, and every message is settled or back in the broker
      1  the worker could not start or continue, or stopped before all was settled
      2  the command line or the app is invalid
    """
    _open_outputs()
    context = click.get_current_context()
    if reload:
        context.exit(reloading.run_reloading(context.meta[FOLDER]))
    options = WorkerOptions.of(session.app, name=name, queues=queues, concurrency=concurrency, pool=pool,
                               grace_seconds=grace, max_tasks_per_child=max_tasks_per_child,
                               max_memory_per_child=max_memory_per_child, beat=beat, metrics=metrics)  # fmt: skip
    if options.beat:
        beats.check_schedules(session.app)
    if options.metrics is not None:
        importlib.import_module("celeriac.metrics.exposition")  # without its extra, fail before anything is started
    formatter = set_up_logging(session.app, options.name, loglevel, log_format)
    banner = partial(_announce, session.app, options, formatter)
    signals.worker_ready.connect(banner)
    try:
        code = run_worker(session.app, options)
    finally:
        signals.worker_ready.disconnect(banner)
    _exit_soon(code)
    context.exit(code)


def _announce(app: Celeriac, options: WorkerOptions, formatter: logging.Formatter | None, **more: Any) -> None:
    """Print the banner once the worker is ready: text, or one JSON object."""
    children = [f"{1 if options.pool == 'solo' else options.concurrency} for plain functions"]
    if options.coroutine_children:
        children.append(f"{options.coroutine_children} for {options.coroutine_concurrency} coroutines at a time")
    results = app.conf.result_backend
    facts = {
        "app": f"{app.main}, {len(app.tasks)} task{'' if len(app.tasks) == 1 else 's'}",
        "broker": shown(app.broker_url),
        "results": shown(results) if results else "with the broker",
        "queues": listed(options.queues),
        **({"beat": "sends what is scheduled"} if options.beat else {}),
        options.pool: "; ".join(children),
    }
    ready = f"celeriac {__version__}: the worker {options.name} is ready. Ctrl-C stops it."
    show_banner(ready, facts, formatter, "celeriac.worker")


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
