"""What a client's file provides. It is imported only by the process that measures it.

Each file assigns a subclass of `Client` to `CLIENT`. For each measure (see `catalogue`) that the library supports, the
class has a method of that name, which takes a count and returns when that many messages or calls are done.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

__all__ = ["ACK_EVERY", "BODY", "DURABLE", "PREFETCH", "QUEUE", "SCRIPT", "TRANSIENT", "URL_VARIABLE", "WINDOW",
           "AsyncClient", "Client", "url"]  # fmt: skip

URL_VARIABLE = "BENCHMARK_CLIENT_URL"  # of the server under test
QUEUE = "clients"  # a durable queue; the list in Redis
BODY = b"x" * 200
WINDOW = 500  # publications that wait for their confirms at the same time; calls in a pipeline
PREFETCH = 1000
ACK_EVERY = 100
TRANSIENT, DURABLE = 1, 2  # AMQP's delivery modes
SCRIPT = "return redis.call('LPUSH', KEYS[1], ARGV[1])"


def url() -> str:
    """Return the URL of the server under test."""
    return os.environ[URL_VARIABLE]


class Client:
    """A client library, connected to the server."""

    title: ClassVar[str]
    packages: ClassVar[Sequence[str]]  # their versions are printed

    def __init__(self) -> None:
        self.parts: SplitResult = urlsplit(url())
        self.port: int = self.parts.port or 0
        self.vhost = self.parts.path[1:]


class AsyncClient(Client):
    """A client whose calls are coroutines. All run in one event loop, that of uvloop."""

    def __init__(self) -> None:
        import uvloop  # noqa: PLC0415 - not needed by blocking clients, nor installed for all of them

        super().__init__()
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.run(self.open())

    async def open(self) -> None:
        """Connect."""
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine in this client's loop."""
        self._runner.run(work)
