"""A worker's connection, and a subscriber's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from celeriac.brokers.queue_server.server_transport import ConnectedWorker, ServerTransport
from celeriac.brokers.queue_server.transport import Procedure
from celeriac.brokers.stomp.topology import StompTopology
from celeriac.brokers.stomp.uncounted import Uncounted
from celeriac.brokers.stomp.windows import Pushed, Window
from celeriac.drivers.procedures import adrive
from celeriac.drivers.stomp.aio import AioConnection
from celeriac.drivers.stomp.error_translation import RightsMissing
from celeriac.drivers.stomp.frames import Frame, Publication, headers
from celeriac.drivers.stomp.server import Server
from celeriac.model.message import new_id

__all__ = ["StompWorkerConnection", "quiet"]

log = logging.getLogger("celeriac.brokers")

QUIET_SECONDS = 0.1  # without a message, after which a server that cannot tell is taken to have pushed all it had
TIDY_SECONDS = 1.0
MANY = 1_000_000  # messages may wait in a line that is not open


class StompWorkerConnection(ConnectedWorker[StompTopology, AioConnection]):
    """A worker's connection: subscriptions to its lines and channels."""

    def __init__(self, connection: AioConnection, transport: ServerTransport[Server, StompTopology, AioConnection],
                 uncounted: Uncounted) -> None:  # fmt: skip
        super().__init__(connection, transport)
        self._dialect = self._topology.dialect
        self._server = transport.server
        self._uncounted = uncounted
        self._windows: dict[str, Window] = {}  # by address
        self._unacked: dict[int, Pushed] = {}
        self._tags = 0
        self._synced = 0  # the last tag before the last `sync`
        self._is_ending = False
        self._here: str | None = None  # the message that stands for this worker, to be acknowledged at its end
        self._delivered: Callable[[Any], None] = lambda _: None

    def listen(self, delivered: Callable[[Any], None], cancelled: Callable[[str], None],
               lost: Callable[[], None]) -> None:  # fmt: skip
        def ended() -> None:
            self._tidying.cancel()
            error = self.connection.lost
            if isinstance(error, RightsMissing):
                self.refusal = error
            lost()

        self._delivered = delivered
        self._tidying = asyncio.ensure_future(self._tidy())
        self.connection.on_lost = ended

    async def _tidy(self) -> None:
        """Acknowledge what is held back, in lines that are idle."""
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            with contextlib.suppress(OSError):
                untidy = [window for window in self._windows.values() if window.is_untidy]
                await self._settled(untidy)
                for window in untidy:
                    if not window.is_fresh:
                        window.is_idle()

    # --- Consuming ------------------------------------------------------------------------------------

    def consume(self, address: str, consumer_tag: str, window: int) -> asyncio.Future[Any]:
        self._window(address).open(consumer_tag, window)
        begun: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        begun.set_result(None)
        return begun

    def _window(self, address: str) -> Window:
        found = self._windows.get(address)
        if found is None:
            dialect = self._dialect
            found = self._windows[address] = Window(
                self.connection, dialect.queue(address),
                lambda size, before: {**dialect.subscribing(size, before), **dialect.of_lines}, self._took,
                dialect.takes_back,
            )  # fmt: skip
        return found

    def _took(self, frame: Frame, window: Window) -> None:
        self._tags += 1
        pushed = self._unacked[self._tags] = Pushed(frame, self._tags, window)
        window.received(pushed)
        self._delivered(pushed)

    def cancel(self, consumer_tag: str) -> None:
        for window in self._windows.values():
            if window.tag == consumer_tag:
                window.close()

    def acknowledge(self, tags: Sequence[int], oldest: int | None) -> None:
        for window, pushed in self._forget(tags).items():
            window.acknowledge(pushed)

    def _forget(self, tags: Sequence[int]) -> dict[Window, list[Pushed]]:
        found: dict[Window, list[Pushed]] = defaultdict(list)
        for tag in tags:
            pushed = self._unacked.pop(tag, None)
            if pushed is not None:  # else it was acknowledged by `move`
                found[pushed.window].append(pushed)
        return found

    async def move(self, sending: Callable[[], Procedure[None]], tags: Sequence[int]) -> bool:
        if not self._dialect.atomic:
            return False
        moved = [pushed for tag in tags if (pushed := self._unacked.get(tag)) is not None]
        answer = partial(self._server.answer, self.connection, acknowledged=[pushed.ack for pushed in moved])
        await adrive(sending(), answer)
        for window, settled in self._forget([one.tag for one in moved]).items():
            window.settled(settled)
            window.acknowledged(settled)
        return True

    async def put_back(self, tags: Sequence[int]) -> bool:
        if not self._dialect.takes_back:
            return False
        await self._uncounted.note([pushed.body for tag in tags if (pushed := self._unacked.get(tag)) is not None])
        for window, some in self._forget(tags).items():
            window.put_back(some)
        return True

    def ending(self) -> None:
        self._is_ending = True
        self._tidying.cancel()

    async def sync(self) -> None:
        await self._settled([window for window in self._windows.values() if window.takes_more])
        self._synced = self._tags
        if self._is_ending:
            self._delivered = lambda _: None

    async def _settled(self, windows: Sequence[Window]) -> None:
        """Return when the server has pushed to lines what it can."""
        for window in windows:
            window.is_fresh = False
        if not windows:
            return
        if not self._dialect.browses:
            await quiet(lambda: self._tags)
            return
        await asyncio.gather(*[self.connection.passed(window.destination) for window in windows])

    async def count(self, addresses: Sequence[str]) -> list[int]:
        """Guess: the server does not tell. None wait where it may push more; elsewhere, any number may."""
        windows = [self._window(address) for address in addresses]
        await self._settled([window for window in windows if window.is_fresh])
        return [0 if window.takes_more else MANY if window.tag else 1 for window in windows]

    async def stop(self) -> None:
        """Acknowledge all that was settled. What the server pushes instead goes back, and does not count as lost."""
        held = [pushed.ack for window in self._windows.values() for pushed in window.held]
        if self._here is not None:
            held.append(self._here)
        if held:
            self.connection.acknowledge(held)
            for window in self._windows.values():
                window.acknowledged(window.held)
            await self._settled([window for window in self._windows.values() if window.takes_more])
        noted = self._synced
        lost = {pushed.body for tag, pushed in self._unacked.items() if tag <= noted}

        def later() -> list[bytes]:
            """Return what was pushed since, but for what was held before: its subscription may end before others."""
            return [pushed.body for tag, pushed in self._unacked.items() if tag > noted and pushed.body not in lost]

        while late := later():
            noted = self._tags
            await self._uncounted.note(late)
        await self.connection.confirmed("DISCONNECT")
        await self._uncounted.note(later())

    # --- Everything else ------------------------------------------------------------------------------

    async def announce(self) -> None:
        if not self._dialect.browses:
            return
        id, workers = new_id(), self._topology.workers
        here: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def found(frame: Frame) -> None:
            if not here.done():
                here.set_result(frame.headers.get("ack", ""))

        more = {self._dialect.window: "1", "selector": f"worker='{id}'"}
        self.connection.subscribe(found, workers, more=more)
        await self.connection.publish([Publication(workers, headers({"persistent": "false", "worker": id}), b"")])
        self._here = await here


async def quiet(count: Callable[[], int]) -> None:
    """Return when a count has not risen for a while."""
    seen = -1
    while seen != (seen := count()):
        await asyncio.sleep(QUIET_SECONDS)
