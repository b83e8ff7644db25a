"""Support for testing programs that use Celeriac."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from celeriac import signals
from celeriac.app.app import Celeriac
from celeriac.errors import CeleriacError
from celeriac.model.clock import Duration, seconds
from celeriac.worker.options import WorkerOptions
from celeriac.worker.supervisor import Supervisor

__all__ = ["running_worker"]


@contextmanager
def running_worker(app: Celeriac, *, queues: Sequence[str] | None = None, concurrency: int = 2,
                   grace_seconds: Duration = 5.0) -> Iterator[Supervisor]:  # fmt: skip
    """Run a real worker in threads of this process: ready when the block is entered, stopped when it is left.

        app = Celeriac("shop", broker_url="memory://")

        def test_add():
            with running_worker(app):
                assert add.delay(2, 2).get(timeout=5) == 4

    Arguments, results and errors pass through the same code as in production; only the children are threads.
    """
    options = WorkerOptions.of(app, queues=queues, concurrency=concurrency, pool="threads",
                               grace_seconds=seconds(grace_seconds, "grace_seconds"))  # fmt: skip
    signals.worker_init.send(options.name)
    ready = threading.Event()
    supervisors: list[Supervisor] = []
    failures: list[BaseException] = []

    async def supervise() -> None:
        supervisor = Supervisor(app, options)
        supervisors.append(supervisor)
        running = asyncio.ensure_future(supervisor.run())
        waiting = asyncio.ensure_future(supervisor.ready.wait())
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not running.done():
            ready.set()
        if await running:
            raise CeleriacError("The test worker failed: see the log of `celeriac.worker` for the reason.")

    def run() -> None:
        try:
            asyncio.run(supervise())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="celeriac-worker")
    thread.start()
    ready.wait()
    try:
        if failures:
            raise failures[0]
        yield supervisors[0]
    finally:
        if thread.is_alive():
            supervisors[0].stop_soon("the end of the test")
        thread.join()
    if failures:
        raise failures[0]
