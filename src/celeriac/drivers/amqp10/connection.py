"""A connection of the running event loop: opening it, attaching links, sending messages with their outcomes.

The bytes go through asyncio (TLS as well), the protocol is `engine.py`'s. Heartbeats are sent by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from celeriac.drivers.amqp10.address import Address
from celeriac.drivers.amqp10.engine import Engine
from celeriac.drivers.amqp10.error_translation import FAULT, Refusal, Refused, opening_failed, refused
from celeriac.drivers.amqp10.links import ACCEPTED, REJECTED, Link, Node, Receiver, Sender, Session
from celeriac.drivers.amqp10.messages import Received
from celeriac.drivers.hosts import Host, Hosts
from celeriac.drivers.loop_connection import LoopConnection

__all__ = ["Connection", "Item"]

WINDOW = 500  # messages that the server may send ahead to who follows a node
PART = 64  # messages that are handed to proton together: it looks at all of them for each piece of output
MOST_SENDERS = 256  # that stay attached


class Item(NamedTuple):
    """A message to be sent."""

    node: Node
    data: bytes


class Connection(LoopConnection):
    """A connection. Made by `connect`."""

    def __init__(self, address: Address, hosts: Hosts, host: Host, engine: Engine) -> None:
        super().__init__(address, hosts, host)
        self.engine = engine
        self._changed: set[asyncio.Future[None]] = set()  # of those who wait until the connection or a link is open
        self._flushing = False
        self._senders: dict[Node, asyncio.Future[Sender]] = {}  # those used last are the last
        self._sending: Session | None = None

    @classmethod
    async def connect(cls, address: Address, hosts: Hosts, timeout: float, name: str, idle: float,
                      vhost: str) -> Connection:  # fmt: skip
        """Return a connection to the first host that answers. Raises `OSError` or `BrokerUnavailable`."""

        async def opened(host: Host) -> Connection:
            engine = Engine(name, vhost, address.mechanism, address.username, address.password, idle)
            made = cls(address, hosts, host, engine)
            try:
                await made.reach()
                await made.until(lambda: engine.opened)
                if made.lost is not None:  # it was closed with the reason
                    raise made.lost
            except BaseException as error:
                made.abandon()
                if isinstance(error, OSError):
                    raise opening_failed(error, address) from error
                raise
            made._tick()
            return made

        return await hosts.first(timeout, opened)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for something that the server says. Raises `ConnectionLost`."""
        while not condition():
            if self.lost is not None:
                raise self.lost
            self.flush()
            change: asyncio.Future[None] = self._loop.create_future()
            self._changed.add(change)
            try:
                await change
            finally:
                self._changed.discard(change)

    def _wake(self) -> None:
        """Let those look again who wait for something."""
        for change in self._changed:
            if not change.done():
                change.set_result(None)

    # --- Called by the event loop ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Pass bytes to the engine, and send what follows from them."""
        self.received_at = time.monotonic()
        self.engine.receive(data)
        self.flush()
        self._wake()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.flush()  # the engine has kept it

    def _tick(self) -> None:
        if self.lost is None:
            following = self.engine.tick(time.monotonic())
            self.flush()
            if following:
                self._heartbeat = self._loop.call_later(max(0.01, following - time.monotonic()), self._tick)

    # --- Sending bytes --------------------------------------------------------------------------------

    def soon(self) -> None:
        """Send what the engine has to send, once for all that is done in this step of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what the engine has to send."""
        self._flushing = False
        if self._transport is not None and self._writable.is_set() and (data := self.engine.output()):
            self.write(data)
        if self.engine.lost is not None:
            self.lose(self.engine.lost)

    # --- Links ----------------------------------------------------------------------------------------

    def session(self) -> Session:
        """Begin a session. Raises `ConnectionLost`."""
        if self.lost is not None:
            raise self.lost
        return self.engine.session()

    async def attached(self, link: Link) -> Any:
        """Wait until the server has accepted a link. Raises `Refused` or `ConnectionLost`."""
        await self.until(lambda: link.opened or link.error)
        if link.error is None:
            return link
        if self.lost is not None or not isinstance(link.error, Refusal):
            raise link.error
        if link.error.condition == FAULT:
            self.abandon(str(link.error))
            raise link.error
        raise refused(f"the address {link.node.address!r}", link.error)

    async def exists(self, node: Node) -> bool:
        """Say whether there is a node, by attaching to it. Raises `Refused` (no rights), `ConnectionLost`."""
        session = self.session()
        try:
            await self.attached(session.receiver(node))
        except Refused as error:
            if not error.missing:
                raise
            return False
        finally:
            session.close()
            self.soon()
        return True

    async def drained(self, receiver: Receiver, most: int) -> None:
        """Wait until the server has sent up to so many messages more, if it has them now."""
        receiver.drain(most)
        await self.until(lambda: receiver.error or receiver.drained)
        if receiver.error is not None:
            raise receiver.error

    async def told(self, receivers: Sequence[Receiver]) -> list[int]:
        """Return how many messages wait for each, of a server that tells it."""
        waiting = set(receivers)
        for receiver in receivers:
            receiver.flowed = partial(waiting.discard, receiver)
            receiver.ask()
            self.flush()
        await self.until(lambda: not waiting or next((one for one in receivers if one.error), None))
        for receiver in receivers:
            if receiver.error is not None:
                raise receiver.error
        return [receiver.available or 0 for receiver in receivers]

    async def follow(self, node: Node, take: Callable[[bytes], None], ended: Callable[[object], None]) -> None:
        """Call `take` with each message of a node, and let the server forget it; `ended`, when the link has ended.

        Raises `Refused`, `ConnectionLost`.
        """
        receiver: Receiver = await self.attached(self.session().receiver(node))
        left = WINDOW

        def heard(delivery: Any, received: Received) -> None:
            nonlocal left
            receiver.settle(delivery, ACCEPTED)
            self.soon()
            left -= 1
            if left < WINDOW // 2:
                left = WINDOW
                receiver.allow(WINDOW)
            take(received.body)

        receiver.take = heard
        receiver.changed = lambda: ended(receiver.error)
        receiver.allow(WINDOW)
        self.flush()

    async def sender(self, node: Node) -> Sender:
        """Return the sender to a node; attach it at first. Raises `Refused` or `ConnectionLost`."""
        future = self._senders.pop(node, None)
        if future is None or (future.done() and (future.cancelled() or future.exception() or future.result().error)):
            future = asyncio.ensure_future(self._attach(node))
            future.add_done_callback(_retrieve)
        self._senders[node] = future
        if len(self._senders) > MOST_SENDERS:
            self._detach_some()
        return await asyncio.shield(future)

    async def _attach(self, node: Node) -> Sender:
        if self._sending is None or self._sending.error is not None:
            self._sending = self.session()
        sender: Sender = await self.attached(self._sending.sender(node))
        return sender

    def _detach_some(self) -> None:
        for node, future in list(self._senders.items())[: MOST_SENDERS // 2]:
            if future.done() and not future.cancelled() and not future.exception() and future.result().idle:
                del self._senders[node]
                future.result().close()

    # --- Messages -------------------------------------------------------------------------------------

    async def send(self, items: Sequence[Item]) -> list[Item]:
        """Send messages, and wait for their outcomes; return those that reached no queue.

        Raises `Refused` if the server refuses one, or its address; `ConnectionLost`.
        """
        nodes = dict.fromkeys(item.node for item in items)
        senders = {node: await self.sender(node) for node in nodes}
        batch = _Batch(self._loop.create_future(), len(items))
        for item in items:
            sender = senders[item.node]
            if 0 < sender.largest < len(item.data):
                raise refused("a message", Refusal("amqp:link:message-size-exceeded", f"{len(item.data)} bytes, and it "
                                                   f"takes {sender.largest}"))  # fmt: skip
        for number, item in enumerate(items, 1):
            sender = senders[item.node]
            if sender.error is not None:
                raise sender.error
            sender.send(item.data, partial(batch.settled, item))
            if not number % PART:
                self.flush()
        self.soon()
        await batch.future
        return batch.returned

    def blocked_by(self) -> str:
        """Say to which node the server lets nobody send at present; empty if there is none."""
        for node, future in self._senders.items():
            if future.done() and not future.cancelled() and not future.exception() and future.result().blocked:
                return f"it gives no credit to send to {node.address}"
        return ""

    # --- The end --------------------------------------------------------------------------------------

    def farewell(self) -> bytes:
        self.engine.close()
        return self.engine.output()

    def ended(self, error: Exception) -> None:
        self.engine.end(error)
        self._wake()


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Look at the error of what has ended: its callers, who would be told, may be gone."""
    if not future.cancelled():
        future.exception()


class _Batch:
    """Messages whose outcomes are awaited together."""

    def __init__(self, future: asyncio.Future[None], left: int) -> None:
        self.future = future
        self.returned: list[Item] = []
        self._left = left
        self._error: Exception | None = None
        if not left:
            future.set_result(None)

    def settled(self, item: Item, state: int, error: Exception | None) -> None:
        """Note an outcome."""
        self._left -= 1
        if state == REJECTED:
            self._error = refused(f"a message to {item.node.address!r}", error or Refusal("amqp:rejected", ""))
        elif error is not None:
            self._error = self._error or error
        elif state != ACCEPTED:
            self.returned.append(item)
        if not self._left and not self.future.done():
            if self._error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(self._error)
