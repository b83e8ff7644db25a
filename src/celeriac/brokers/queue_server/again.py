"""Does something again on another connection, where the server ended the first one in the midst of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from celeriac.errors import BrokerUnavailable

__all__ = ["again_when_lost"]

Self = TypeVar("Self")
P = ParamSpec("P")
T = TypeVar("T")


def again_when_lost(
    method: Callable[Concatenate[Self, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Self, P], Coroutine[Any, Any, T]]:
    """Let a method that opens a connection, and may be repeated, be called once more if that connection is lost."""

    @wraps(method)
    async def repeated(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, *args, **kwargs)
        except BrokerUnavailable as error:
            if not isinstance(error.__cause__, ConnectionError):
                raise
            return await method(self, *args, **kwargs)

    return repeated
