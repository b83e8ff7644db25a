"""Runs the demonstration: creates the folder, starts site and worker, runs three jobs at once, prints the tables.

Called by `run_demo`. Everything that must be cleaned up is a context manager outside the event loop, so that Ctrl-C, a
failure and the normal end take the same path.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from celeriac.demo.jobs import Crawl, Index, Kill
from celeriac.demo.processes import START_SECONDS, DemoError, HubProcess, SiteProcess, WorkerProcess
from celeriac.demo.report import checks_of, show_checks, show_tables
from celeriac.demo.show import Show
from celeriac.demo.site import build
from celeriac.demo.tasks import app
from celeriac.demo.truth import library_files, read_library

__all__ = ["run"]

PAGES = 500
LIMIT_SECONDS = 60.0
CHECK_SECONDS = 0.2
STOPPED = 128  # plus the signal's number: the exit code, as in shells


def run(*, seconds: float | None = None, keep: bool = False, hub: bool = False) -> int:
    """Run the demonstration, and return the exit code."""
    console = Console()
    began = time.monotonic()
    termination = _Termination()
    try:
        with termination.caught(), _folder(console, keep) as folder:
            right = _demonstrate(Show(console), folder, seconds or LIMIT_SECONDS, termination, hub)
    except DemoError as error:
        text = f"The demonstration FAILED. {error}"
        console.print(text, style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped. The worker and the site have been stopped, too.", highlight=False)
        return STOPPED + (termination.number or signal.SIGINT)
    console.print(f"\nTotal time: {time.monotonic() - began:.1f} s.", highlight=False)
    return 0 if right else 1


def _demonstrate(show: Show, folder: Path, limit: float, termination: _Termination, over_hub: bool) -> bool:
    """Start the processes, run the jobs and print the tables; return whether all checks pass."""
    database = folder / "celeriac.db"
    paths = library_files()
    if not paths:
        raise DemoError("This Python installation has no source files of the standard library, which this "
                        "demonstration indexes. Use another Python installation.")  # fmt: skip
    show.say("This demonstration runs a worker with 2 children for plain functions and 1 for coroutines.")
    with ExitStack() as processes:
        hub = processes.enter_context(HubProcess(folder, database)) if over_hub else None
        app.close()
        app.conf.broker_url = hub.url if hub is not None else f"sqlite:///{database}"
        site = processes.enter_context(SiteProcess(folder, PAGES))
        worker = processes.enter_context(WorkerProcess(folder, app.conf.broker_url))
        if hub is not None:
            show.say(f"It reaches broker and results over a hub, process {hub.pid}, which keeps them in {database}.")
        else:
            show.say(f"It needs no server: broker and results are in the file {database}.")
        show.say(f"The worker is process {worker.pid}; {site.base} is a local web site with {PAGES} pages.\n")
        with show:
            index = Index(show.bar("Index of Python's library", "files"))
            crawl = Crawl(show.bar("Crawl of the site", "pages"), site.base)
            kill = Kill(show.bar("Word pairs (its child is killed)", "files"))
            watched = [process for process in (hub, site) if process is not None]
            asyncio.run(_work(index, crawl, kill, paths, worker, watched, limit, termination))
        requests = site.close()
    show.say("Done. Computing the same numbers in this process, without workers, to compare ...\n")
    checks = checks_of(index, crawl, kill, read_library(paths), build(PAGES), requests)
    show_tables(show.console, index, crawl, kill)
    show_checks(show.console, checks)
    return all(check.right for check in checks)


async def _work(index: Index, crawl: Crawl, kill: Kill, paths: Sequence[Path], worker: WorkerProcess,
                others: Sequence[HubProcess | SiteProcess], limit: float,
                termination: _Termination) -> None:  # fmt: skip
    """Run the jobs concurrently; fail if the worker or another process exits."""
    termination.work = asyncio.current_task()
    try:
        await _ready(worker)
        async with asyncio.timeout(limit), asyncio.TaskGroup() as group:
            watch = group.create_task(_watch([worker, *others]))
            jobs = [
                group.create_task(index.run(paths)),
                group.create_task(crawl.run()),
                group.create_task(kill.run(paths, index.half_way)),
            ]
            await asyncio.wait(jobs)
            watch.cancel()
    except TimeoutError:
        missing = ", ".join(f"{job.task}: {job.lost} of {job.sent}" for job in (index, crawl, kill))
        text = (f"It has not finished within {limit:g} s; give it more time with --seconds. "
                f"Tasks without an outcome: {missing}. {worker.tail()}")  # fmt: skip
        raise DemoError(text) from None
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        termination.work = None
        app.close()


async def _ready(worker: WorkerProcess) -> None:
    """Wait until the worker has taken a lease."""
    deadline = time.monotonic() + START_SECONDS
    while not await app.broker.operations().workers():
        worker.check()
        if time.monotonic() > deadline:
            raise DemoError(f"The worker did not start within {START_SECONDS:g} s. {worker.tail()}")
        await asyncio.sleep(CHECK_SECONDS / 4)


async def _watch(processes: Sequence[HubProcess | SiteProcess | WorkerProcess]) -> NoReturn:
    """Raise `DemoError` when one of the processes has exited."""
    while True:
        for process in processes:
            process.check()
        await asyncio.sleep(CHECK_SECONDS)


@contextmanager
def _folder(console: Console, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="celeriac-demo-"))
    try:
        yield folder
    finally:
        if keep:
            console.print(f"Kept: {folder}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


class _Termination:
    """Makes SIGTERM clean up like Ctrl-C: cancels the jobs if they are running, otherwise exits."""

    def __init__(self) -> None:
        self.number = 0  # of the signal that was received
        self.work: asyncio.Task[None] | None = None

    def __call__(self, number: int, frame: object) -> None:
        self.number = number
        if self.work is None:
            sys.exit(STOPPED + number)
        self.work.get_loop().call_soon_threadsafe(self.work.cancel)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle the signal within a `with` block; does nothing outside the main thread, which gets no signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
