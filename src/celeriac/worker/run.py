"""Runs a worker in this process: prepares it, makes the event loop, and starts the supervisor in it.

With `--pool processes`, a fork server is started first, before there are connections or threads. With `--pool solo`,
tasks have the main thread, and the supervisor another. Called by `celeriac worker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from concurrent.futures import Future
from types import FrameType

from celeriac import signals
from celeriac.app.app import Celeriac
from celeriac.errors import ImproperlyConfigured
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.forkserver import start_forkserver
from celeriac.worker.pools.titles import set_title
from celeriac.worker.pools.worker_thread import WorkerThread
from celeriac.worker.preflight import import_http, raise_open_files
from celeriac.worker.supervisor import STOP_SIGNALS, Supervisor, stop_signals

try:
    import uvloop
except ImportError:  # an extra
    uvloop = None  # type: ignore[assignment]

__all__ = ["run_worker"]

log = logging.getLogger("celeriac.worker")

CLOSE_SECONDS = 0.5  # for the threads of the event loop, at the end
EXIT_SECONDS = 0.2  # for the main thread of a solo worker, at the end


def run_worker(app: Celeriac, options: WorkerOptions) -> int:
    """Run a worker until it is asked to stop; return its exit code.

    Call it in the main thread, as the last work of the process: it returns with the stop signals blocked.
    """
    raise_open_files()
    _show_stacks_at_sigusr1()
    set_title(f"worker {options.name}")
    signals.worker_init.send(options.name)  # before the fork server: what receivers set up is there in each child
    import_http(app)
    if app.framework is not None:
        app.framework.before_work()
    if options.pool == "processes":
        if app.broker_url.startswith("memory:"):
            raise ImproperlyConfigured("memory:// lives in one process, and tasks would run in others. Use sqlite:// "
                                       "(the default), or start the worker with --pool threads.")  # fmt: skip
        _ = app.broker, app.backend  # import the adapters once, not in every child
        app.close()  # the fork server must inherit no connection
        app.tracing.warn_before_fork()
        return _run(app, options, start_forkserver(app, options.name))
    if options.pool == "solo":
        return _run_solo(app, options)
    return _run(app, options)


def _show_stacks_at_sigusr1() -> None:
    """Write what each thread does to stderr at SIGUSR1, as Celery does, if the app has no handler for it."""
    if signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL:
        return
    if sys.__stderr__ is None:  # closed
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    else:
        faulthandler.register(signal.SIGUSR1, sys.__stderr__)


def _run(app: Celeriac, options: WorkerOptions, forkserver: socket.socket | None = None) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uvloop is not None else None) as runner:
        code = runner.run(_supervise(Supervisor(app, options, forkserver)))
        _close(runner, code)
    return code


async def _supervise(supervisor: Supervisor) -> int:
    try:
        return await supervisor.run()
    finally:  # the loop removes its signal handlers: one more signal would change the exit code of a finished worker
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _close(runner: asyncio.Runner, code: int) -> None:
    """Close the event loop; exit with this code if that takes longer than `CLOSE_SECONDS`.

    To close it waits for its threads, and so does the interpreter at its exit. One that still waits for a server would
    hold up the worker until its request has timed out. Nothing depends on it: the worker has stopped.
    """
    own = (threading.main_thread(), threading.current_thread())
    if all(thread in own for thread in threading.enumerate()):
        runner.close()
        return
    timer = threading.Timer(CLOSE_SECONDS, os._exit, (code,))
    timer.daemon = True
    timer.start()
    with contextlib.suppress(OSError, ValueError):  # for the case that it does not exit in the usual way
        sys.stdout.flush()
        sys.stderr.flush()
    logging.shutdown()
    runner.close()
    timer.cancel()


def _run_solo(app: Celeriac, options: WorkerOptions) -> int:
    """Run plain tasks in the main thread, where a debugger can attach, and the supervisor in another."""
    main_thread = WorkerThread()
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    # Signal handlers cannot run while a task in the main thread is busy in C, and a task could catch what they raise.
    # So each signal becomes a byte in this pipe, where it also waits until the supervisor has started.
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in stop_signals():
        signal.signal(number, _ignore)
    end: Future[int] = Future()

    async def supervise() -> int:
        return await Supervisor(app, options, main_thread=main_thread, wake=wake_read).run()

    def run() -> None:
        try:
            with asyncio.Runner() as runner:
                code = runner.run(supervise())
                _close(runner, code)
            end.set_result(code)
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            end.set_exception(error)
        main_thread.stop()
        if not main_thread.stopped.wait(EXIT_SECONDS):  # a task still runs in the main thread; it was given back
            failure = end.exception()
            if failure is not None:
                log.critical("The worker has failed", exc_info=failure)
            os._exit(1 if failure is not None else end.result())

    thread = threading.Thread(target=run, name="celeriac-supervisor")
    thread.start()
    main_thread.run()
    thread.join()
    return end.result()


def _ignore(number: int, stack: FrameType | None) -> None:
    pass
