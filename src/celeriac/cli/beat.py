"""`celeriac beat`: runs a scheduler (`celeriac.beat`) until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Sequence
from typing import Final

import click

from celeriac import __version__
from celeriac.app.app import Celeriac
from celeriac.beat.info import ScheduleInfo
from celeriac.cli.banner import show_banner
from celeriac.cli.celery_options import BEAT, refused_options
from celeriac.cli.log import set_up_logging
from celeriac.cli.options import log_options
from celeriac.cli.session import Session, with_session
from celeriac.cli.tables import until
from celeriac.errors import BackendError, BrokerError, ImproperlyConfigured
from celeriac.model.masks import masked

__all__ = ["check_schedules", "command"]

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
STOP_SECONDS: Final = 5.0  # for what a scheduler is about to send when it is stopped
LOOKED_AT: Final = 1000  # entries, for the banner
NEXT: Final = 3  # entries that it names


@click.command("beat")
@click.option("-n", "--name", metavar="NAME", help="The scheduler's name, for its log.  [default: APP@HOST.PID]")
@log_options
@refused_options(BEAT)
@with_session
def command(session: Session, *, name: str | None, loglevel: str | None, log_format: str | None) -> None:
    """Run a scheduler until it is stopped.

    Any number may run at the same time: each tick is sent once, and one that was missed while none ran is sent when
    the next one starts. Workers can do the same: celeriac worker --beat.

    \b
    Examples:
      celeriac -A shop beat
      celeriac -A shop beat --loglevel info

    \b
    Exit codes:
      0  the scheduler was stopped
      1  the scheduler could not start
      2  the command line or the app is invalid
    """
    app = session.app
    if app.broker_url.startswith("memory:"):
        raise ImproperlyConfigured("memory:// lives in one process, and no worker runs in this one. Set another "
                                   "broker, or start celeriac worker --pool threads --beat.")  # fmt: skip
    check_schedules(app)
    name = name or f"{app.main or 'celeriac'}@{socket.gethostname()}.{os.getpid()}"
    formatter = set_up_logging(app, name, loglevel, log_format)
    asyncio.run(_beat(app, name, formatter))


def check_schedules(app: Celeriac) -> None:
    """Raise if there is no store for schedules, and for those that are declared wrongly."""
    _ = app.schedules.store
    for _ in app.declared.definitions():
        pass


async def _beat(app: Celeriac, name: str, formatter: logging.Formatter | None) -> None:
    scheduler = app.scheduler(name)
    asked, cold = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (cold if asked.is_set() else asked).set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under `nohup`
            loop.add_signal_handler(number, stop)
    beating = asyncio.ensure_future(scheduler.run())
    stopping = asyncio.ensure_future(asked.wait())
    ready = asyncio.ensure_future(scheduler.started.wait())
    await asyncio.wait((beating, stopping, ready), return_when=asyncio.FIRST_COMPLETED)
    if ready.done() and not stopping.done():
        await _announce(app, name, formatter)
        await asyncio.wait((beating, stopping), return_when=asyncio.FIRST_COMPLETED)
    scheduler.stop()
    killing = asyncio.ensure_future(cold.wait())
    await asyncio.wait((beating, killing), timeout=STOP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for task in (beating, stopping, ready, killing):
        task.cancel()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # one more would change the exit code
    if not beating.done():
        await asyncio.wait((beating,))
    app.close()
    if not beating.cancelled():
        beating.result()


async def _announce(app: Celeriac, name: str, formatter: logging.Formatter | None) -> None:
    """Print the banner: where the entries are kept, how many there are, and which are the next."""
    try:
        entries: Sequence[ScheduleInfo] = await app.schedules.alist(limit=LOOKED_AT)
    except (BrokerError, BackendError):  # it is away again; the scheduler says so
        entries = []
    coming = sorted((entry.next_at, entry.name) for entry in entries if entry.next_at is not None)
    store = app.broker_url if app.schedules.store.publishes else app.backend_url
    facts = {
        "app": f"{app.main}, {len(app.tasks)} task{'' if len(app.tasks) == 1 else 's'}",
        "broker": masked(app.broker_url),
        "entries": f"{_counted(entries)} in {'the broker' if store == app.broker_url else masked(store)}",
        "next": ", ".join(f"{name} {until(at.timestamp(), app.clock.now())}" for at, name in coming[:NEXT]) or "none",
    }
    ready = f"celeriac {__version__}: the scheduler {name} is ready. Ctrl-C stops it."
    show_banner(ready, facts, formatter, "celeriac.beat")


def _counted(entries: Sequence[ScheduleInfo]) -> str:
    if len(entries) == LOOKED_AT:
        return f"{LOOKED_AT:,} or more"
    others = [f"{count} {state}" for state in ("paused", "problem") if (count := _count(entries, state))]
    return ", ".join([str(len(entries)), *others])


def _count(entries: Sequence[ScheduleInfo], state: str) -> int:
    return sum(entry.state == state for entry in entries)
