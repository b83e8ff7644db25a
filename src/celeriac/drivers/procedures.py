"""Procedures: generators that yield requests of a protocol's own and receive the answers.

So that what is sent is written once, for threads and for event loops. `adrive` and `drive` carry them out, for the
servers of the drivers: `answer` sends a request, and returns its answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from celeriac.drivers.server_errors import RequestRefused

__all__ = ["Procedure", "adrive", "drive"]

Result = TypeVar("Result")
Procedure = Callable[[], Generator[Any, Any, Result]]


def drive(work: Generator[Any, Any, Result], answer: Callable[[Any], Any]) -> Result:
    """Carry out a procedure, which may handle that a request is refused."""
    try:
        ask = next(work)
        while True:
            try:
                found = answer(ask)
            except RequestRefused as error:
                ask = work.throw(error)
            else:
                ask = work.send(found)
    except StopIteration as end:
        result: Result = end.value
        return result


async def adrive(work: Generator[Any, Any, Result], answer: Callable[[Any], Awaitable[Any]]) -> Result:
    """Coroutine version of `drive`. A refusal that another caller may have caused ends the procedure."""
    try:
        ask = next(work)
        while True:
            try:
                found = await answer(ask)
            except RequestRefused as error:
                if error.shared:
                    raise
                ask = work.throw(error)
            else:
                ask = work.send(found)
    except StopIteration as end:
        result: Result = end.value
        return result
