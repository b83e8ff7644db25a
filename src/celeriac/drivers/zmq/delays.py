"""Delays on the hub: for brokers whose server holds no delayed messages, with results on a hub."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from celeriac.drivers.zmq.server import Server
from celeriac.ports.delays import Counts, Delayed, DelayStore, Due, Taken

__all__ = ["HubDelays"]


class HubDelays(DelayStore):
    """Messages in the file of a hub."""

    poll = 1.0

    def __init__(self, server: Server) -> None:
        self._server = server

    def keep(self, messages: Sequence[Delayed]) -> None:
        self._server.do("delays.keep", list(messages))

    async def akeep(self, messages: Sequence[Delayed]) -> None:
        await self._server.ado("delays.keep", list(messages))

    async def take_due(self, limit: int, seconds: float) -> Due:
        found: Due = await self._server.ado("delays.take_due", limit, seconds)
        return found

    async def take(self, ids: Sequence[str], seconds: float) -> list[Taken]:
        found: list[Taken] = await self._server.ado("delays.take", list(ids), seconds)
        return found

    async def take_from(self, queue: str, limit: int, seconds: float) -> list[Taken]:
        found: list[Taken] = await self._server.ado("delays.take_from", queue, limit, seconds)
        return found

    async def remove(self, taken: Sequence[Taken]) -> list[bool]:
        done: list[bool] = await self._server.ado("delays.remove", list(taken))
        return done

    async def release(self, taken: Sequence[Taken]) -> None:
        await self._server.ado("delays.release", list(taken))

    async def counts(self) -> dict[str, Counts]:
        found: dict[str, Counts] = await self._server.ado("delays.counts")
        return found

    async def page(self, queue: str | None, due: bool, limit: int, offset: int = 0) -> list[Taken]:
        found: list[Taken] = await self._server.ado("delays.page", queue, due, limit, offset)
        return found

    async def changed(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, self.poll))
