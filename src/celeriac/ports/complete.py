"""Runs a coroutine to its end from synchronous code, whether or not an event loop runs there; and the other way round.

asyncio and the executor are imported on the first call: that takes as long as importing the app, and not every caller
needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from celeriac.lazy import LazyModule

if TYPE_CHECKING:
    import asyncio
    from concurrent import futures
else:
    asyncio = LazyModule("asyncio")
    futures = LazyModule("concurrent.futures")

__all__ = ["complete", "in_thread", "sleep"]

P = ParamSpec("P")
Result = TypeVar("Result")


def complete(work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine. It runs in an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with futures.ThreadPoolExecutor(1) as thread:  # the caller blocks this thread's loop
        return thread.submit(copy_context().run, asyncio.run, work).result()


async def in_thread(function: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
    """Return the result of a function that blocks. It runs in another thread, in the caller's context."""
    return await asyncio.to_thread(function, *args, **kwargs)


async def sleep(seconds: float) -> None:
    """Wait; the event loop runs on meanwhile."""
    await asyncio.sleep(seconds)
