"""A connection for an event loop: sends, browses, and passes messages to its subscriptions. It sends heartbeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celeriac.drivers.hosts import Host, Hosts
from celeriac.drivers.loop_connection import Beats, LoopConnection
from celeriac.drivers.server_errors import ConnectionLost
from celeriac.drivers.sockets import acknowledging_quickly
from celeriac.drivers.stomp.address import Address
from celeriac.drivers.stomp.error_translation import refused
from celeriac.drivers.stomp.frames import HEARTBEAT, Frame, Parser, Publication, frame
from celeriac.drivers.stomp.opening import WINDOW, Browse, Facts, facts_of, hello, packed, subscribe

__all__ = ["AioConnection"]

NOTHING = "1=0"  # the selector of no message
NONE: Mapping[str, str] = {}


class AioConnection(LoopConnection):
    """A connection of the running event loop. Made by `connect`."""

    address: Address
    facts: Facts  # known when the connection is open

    def __init__(self, address: Address, hosts: Hosts, host: Host) -> None:
        super().__init__(address, hosts, host)
        self._parser = Parser()
        self._opening: asyncio.Future[Frame] = self._loop.create_future()
        self._numbers = 0
        self._receipts: dict[str, tuple[asyncio.Future[None], Callable[[], None]]] = {}
        self._waiting: set[asyncio.Future[None]] = set()  # all that fail when the connection is lost
        self._subscriptions: dict[str, Callable[[Frame], None]] = {}
        self._quick: Callable[[], object] | None = None

    @classmethod
    async def connect(cls, address: Address, timeout: float, heartbeat: float = 60.0,
                      hosts: Hosts | None = None) -> AioConnection:  # fmt: skip
        """Return a connection to the first host that answers. Raises `OSError` or `BrokerUnavailable`."""
        hosts = hosts or Hosts(address.hosts)
        return await hosts.first(timeout, lambda host: cls(address, hosts, host)._open(heartbeat))

    async def _open(self, heartbeat: float) -> AioConnection:
        await self.reach()
        try:
            self.write(hello(self.address, heartbeat))
            self.facts = facts_of(await self._opening, self.address, heartbeat)
        except BaseException:
            self.abandon()
            raise
        sends, receives = self.facts.sends, self.facts.receives
        if sends or receives:
            interval = min(filter(None, (sends, receives))) / 3
            beats = Beats(interval, sends / 3, 2 * receives, HEARTBEAT)
            self._heartbeat = self._loop.call_later(interval, self.keep_alive, beats)
        return self

    # --- Requests -------------------------------------------------------------------------------------

    async def publish(self, items: Sequence[Publication], acknowledged: Sequence[str] = ()) -> None:
        """Send, and acknowledge messages; return when the server has confirmed all.

        With messages to acknowledge, all of it happens in one step if the dialect is `atomic`; otherwise it is sent and
        confirmed first. Without, it may be several steps.
        """
        together = bool(acknowledged) and self.facts.dialect.atomic
        size = max(len(items), 1) if together else WINDOW
        for start in range(0, max(len(items), int(together)), size):
            await self._writable.wait()
            first = self._numbers + 1
            acks = acknowledged if together else ()
            data, count = packed(items[start : start + size], acks, self.facts.dialect, first)
            self._numbers += count
            answer = self._answer(range(first, first + count))
            self.write(data)
            await answer
        if not together and acknowledged:
            self.acknowledge(acknowledged)

    def acknowledge(self, ids: Sequence[str]) -> None:
        """Acknowledge messages. It is not confirmed."""
        self.write(b"".join([frame("ACK", {"id": id}) for id in ids]))

    def subscribe(self, take: Callable[[Frame], None], destination: str, ack: str = "client-individual",
                  more: Mapping[str, str] = NONE) -> tuple[str, asyncio.Future[None]]:  # fmt: skip
        """Begin a subscription, whose messages `take` gets.

        Return its id, and a future that is done when the server has confirmed it.
        """
        self._numbers += 1
        number = self._numbers
        id = f"s{number}"
        self._subscriptions[id] = take
        begun = self._answer((number,))
        self.write(subscribe(id, destination, ack, {**more, "receipt": str(number)}))
        return id, begun

    def unsubscribe(self, id: str) -> None:
        """End a subscription."""
        self._subscriptions.pop(id, None)
        self.write(frame("UNSUBSCRIBE", {"id": id}))

    def finish(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Acknowledge messages, and end the subscription of each before the server can push another to it."""
        for _, subscription in pairs:
            self._subscriptions.pop(subscription, None)
        self.write(b"".join([frame("ACK", {"id": id}) + frame("UNSUBSCRIBE", {"id": subscription})
                             for id, subscription in pairs]))  # fmt: skip

    async def browse(self, what: Browse) -> list[Frame]:
        """Return messages of a queue, without taking them."""
        found: list[Frame] = []
        end = self._answer(())

        def take(message: Frame) -> None:
            if message.headers.get("browser") != "end":
                found.append(message)
            elif not end.done():
                end.set_result(None)

        id, _ = self.subscribe(take, what.destination, "auto", what.headers)
        try:
            await end
        finally:
            if self.lost is None:
                self.unsubscribe(id)
        return found[: what.limit]

    async def passed(self, destination: str) -> None:
        """Return when all that the server can push of a queue has arrived; where its dialect `browses`."""
        await self.browse(Browse(destination, NOTHING))

    async def confirmed(self, command: str, **items: str) -> None:
        """Send a frame, and return when the server has handled it and all before it."""
        self._numbers += 1
        answer = self._answer((self._numbers,))
        self.write(frame(command, {**items, "receipt": str(self._numbers)}))
        await answer

    def _answer(self, receipts: Sequence[int]) -> asyncio.Future[None]:
        """Return a future that is done with the last of these receipts, and fails when the connection is lost."""
        future: asyncio.Future[None] = self._loop.create_future()
        left = len(receipts)

        def received() -> None:
            nonlocal left
            left -= 1
            if not left and not future.done():
                future.set_result(None)

        for number in receipts:
            self._receipts[str(number)] = future, received
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        if self.lost is not None:
            _fail(future, self.lost)
        return future

    # --- Called by the event loop ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        plain = transport.get_extra_info("socket")
        if plain is not None:
            self._quick = acknowledging_quickly(plain)

    def data_received(self, data: bytes) -> None:
        """Pass each frame to whom it is for."""
        self.received_at = time.monotonic()
        if self._quick is not None:
            self._quick()
        try:
            frames = self._parser.feed(data)
        except ConnectionLost as error:
            self.lose(error)
            return
        for found in frames:
            if found.command == "MESSAGE":
                take = self._subscriptions.get(found.headers.get("subscription", ""))
                if take is not None:
                    take(found)
            elif found.command == "RECEIPT":
                _, received = self._receipts.pop(found.headers.get("receipt-id", ""), (None, _nothing))
                received()
            elif not self._opening.done():
                self._opening.set_result(found)
            elif found.command == "ERROR":
                self._refused(found)

    def _refused(self, found: Frame) -> None:
        """Fail the request that an ERROR is about, or all if it does not say; the server ends the connection."""
        error = refused(found.headers.get("message", ""), found.body)
        culprit = self._receipts.get(found.headers.get("receipt-id", ""))
        blamed: list[asyncio.Future[None]] = list(self._waiting) if culprit is None else [culprit[0]]
        for future in blamed:
            _fail(future, error)
        self.lose(error)

    # --- The end --------------------------------------------------------------------------------------

    def farewell(self) -> bytes:
        return frame("DISCONNECT", {})

    def end(self, transport: asyncio.Transport) -> None:
        if self.address.tls:
            transport.abort()  # closing would wait for the server's answer, even when the loop has ended
        else:
            super().end(transport)

    def ended(self, error: Exception) -> None:
        broken = error if isinstance(error, ConnectionLost) else ConnectionLost(str(error))
        for future in list(self._waiting):
            _fail(future, broken)
        _fail(self._opening, broken)
        self._receipts.clear()
        self._subscriptions.clear()


def _nothing() -> None:
    """Ignore a receipt that nobody waits for."""


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # retrieved, for its caller may be gone
