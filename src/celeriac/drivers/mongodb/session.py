"""What one event loop has open on a MongoDB; made and kept by `Server`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from pymongo import AsyncMongoClient

__all__ = ["Session"]


class Session:
    """An asynchronous client. It is closed when the loop shuts down its asynchronous generators."""

    def __init__(self, client: AsyncMongoClient[Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.client = client
        self.closing: asyncio.Task[None] | None = None
        self._end = self._until_the_end()
        with contextlib.suppress(StopIteration):
            self._end.asend(None).send(None)  # starts the generator, so that the loop shuts it down

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.client.close()  # again, if the loop's end has cancelled `closing`

    def close(self) -> None:
        """Close the client soon."""
        self.closing = self.loop.create_task(self.client.close())
