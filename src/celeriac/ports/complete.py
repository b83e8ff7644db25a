"""Runs a coroutine to its end from synchronous code, whether or not an event loop runs there; and the other way round.

asyncio and the executor are imported on the first call: that takes as long as importing all of Celeriac, and not every
caller needs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

__all__ = ["complete", "in_thread", "sleep"]

P = ParamSpec("P")
Result = TypeVar("Result")


def complete(work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine. It runs in an event loop of its own."""
    asyncio = importlib.import_module("asyncio")
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        result: Result = asyncio.run(work)
        return result
    futures = importlib.import_module("concurrent.futures")
    with futures.ThreadPoolExecutor(1) as thread:  # the caller blocks this thread's loop
        found: Result = thread.submit(copy_context().run, asyncio.run, work).result()
        return found


async def in_thread(function: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
    """Return the result of a function that blocks. It runs in another thread, in the caller's context."""
    result: Result = await importlib.import_module("asyncio").to_thread(function, *args, **kwargs)
    return result


async def sleep(seconds: float) -> None:
    """Wait; the event loop runs on meanwhile."""
    await importlib.import_module("asyncio").sleep(seconds)
