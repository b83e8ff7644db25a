"""A minimal worker for tests that need results: one thread that receives, runs and settles."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec.structs import replace

from celeriac import Celeriac, states
from celeriac.errors import TaskRevoked
from celeriac.model.message import COROUTINE, PLAIN
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Action, Delivery, Settlement
from celeriac.ports.operations import WorkerInfo
from celeriac.tasks.execution import Executor


@contextmanager
def working(app: Celeriac) -> Iterator[None]:
    """Run the worker in a thread while the `with` block lasts."""
    loop = asyncio.new_event_loop()
    work = loop.create_task(_work(app))
    thread = threading.Thread(target=_run, args=(loop, work))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(work.cancel)
        thread.join()


def _run(loop: asyncio.AbstractEventLoop, work: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(work)
    except asyncio.CancelledError:
        pass
    finally:
        loop.close()


async def _work(app: Celeriac) -> None:
    executor = Executor(app, "tiny")
    lease = await app.broker.lease(WorkerInfo(name="tiny"), 60.0, 3)
    while True:
        for delivery in await lease.receive(sorted(app.queues), {PLAIN: 50, COROUTINE: 50}, 60.0):
            await lease.settle([await _attempt(executor, delivery)])


async def _attempt(executor: Executor, delivery: Delivery) -> Settlement:
    message = delivery.message
    if delivery.revoked:
        return Settlement(delivery=delivery, outcome=Outcome.failed(message, TaskRevoked(), states.REVOKED, 0.0))
    outcome = await (executor.arun(message) if message.lane == COROUTINE else asyncio.to_thread(executor.run, message))
    if outcome.state == states.RETRY:
        retry = replace(message, attempt=message.attempt + 1)
        return Settlement(delivery=delivery, outcome=outcome, action=Action.RETURN, message=retry)
    return Settlement(delivery=delivery, outcome=outcome)
