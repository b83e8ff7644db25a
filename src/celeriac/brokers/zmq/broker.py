"""The hub's broker: publishing, revoking, broadcasting. For receiving and settling, see `lease.py`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import msgspec

from celeriac.brokers.zmq.lease import HubLease
from celeriac.brokers.zmq.operations import HubOperations
from celeriac.drivers.zmq.conversation import Ask
from celeriac.drivers.zmq.frames import FRAME_BYTES
from celeriac.drivers.zmq.schedules import HubSchedules
from celeriac.drivers.zmq.server import Server, server
from celeriac.drivers.zmq.verbs import Client
from celeriac.errors import AccessRefused, BrokerError
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.message import Message, published_again
from celeriac.ports.backend import Backend
from celeriac.ports.broker import MISSED, Broker, Lease
from celeriac.ports.operations import Operations, WorkerInfo
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore

__all__ = ["HubBroker", "connect"]

PUBLISH_BATCH: Final = 500  # messages in one request, at most
LISTEN_SECONDS: Final = 30.0  # in one request
LISTEN_PAUSE: Final = 0.5
TOKEN: Final = re.compile(r"([0-9]{1,18}):[0-9]{1,18}:[0-9]{1,18}:[0-9a-f]{1,15}:[0-9a-f]{1,16}")


class HubBroker(Broker, ScheduleKeeper):
    """A broker that a hub serves."""

    lacks = frozenset()

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.server = server
        self.clock = clock
        self.codec = server.codec
        self.result_expires = result_expires

    def publish(self, messages: Sequence[Message]) -> None:
        if len(messages) == 1:
            self.server.do("broker.publish", [self.server.pack(messages[0])], again=lambda: (self._again(messages),))
            return
        asks = [Ask("broker.publish", (values,), lambda some=some: (self._again(some),))  # type: ignore[misc]
                for some, values in self._batches(messages)]  # fmt: skip
        self.server.do_all(asks)
        for ask in asks:
            ask.value()

    async def apublish(self, messages: Sequence[Message], again: bool = False) -> None:
        if again:
            messages = published_again(messages)
        for some, values in self._batches(messages):
            await self.server.ado("broker.publish", values, again=lambda some=some: (self._again(some),))  # type: ignore[misc]

    def _again(self, messages: Sequence[Message]) -> list[bytes]:
        """Return messages as they are sent on another connection: they may have been published, and have ended."""
        return [self.server.pack(message) for message in published_again(messages)]

    def _batches(self, messages: Sequence[Message]) -> Iterator[tuple[Sequence[Message], list[bytes]]]:
        for start in range(0, len(messages), PUBLISH_BATCH):
            some = messages[start : start + PUBLISH_BATCH]
            values = list(map(self.server.pack, some))
            first = size = 0
            for place, value in enumerate(values):
                if place > first and size + len(value) > FRAME_BYTES:
                    yield some[first:place], values[first:place]
                    first, size = place, 0
                size += len(value)
            yield some[first:], values[first:]

    async def lease(self, worker: WorkerInfo, seconds: float, max_deliveries: int) -> Lease:
        info = self.codec.seal("worker", msgspec.json.encode(worker))
        number = await self.server.ado("broker.lease", info, seconds)
        return HubLease(self.server, self.clock, number, seconds, max_deliveries, self.result_expires)

    def adopt(self, token: str, seconds: float) -> Lease | None:
        match = TOKEN.fullmatch(token)
        if match is None or int(token.rpartition(":")[2], 16) >= 1 << 63:
            return None
        return HubLease(self.server, self.clock, int(match[1]), seconds, 0, self.result_expires)

    def joins(self, backend: Backend) -> bool:
        return getattr(backend, "server", None) is self.server

    async def revoke(self, ids: Sequence[str], until: float) -> None:
        if ids:
            await self.server.ado("broker.revoke", list(ids), until)

    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        if payloads:
            await self.server.ado("broker.broadcast", channel, list(payloads))

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        return self._listen(channel, await self.server.ado("broker.last_broadcast"))

    async def _listen(self, channel: str, seen: int) -> AsyncIterator[bytes]:
        while True:
            try:
                last, payloads = await self.server.ado("broker.heard", channel, seen, LISTEN_SECONDS,
                                                       wait=LISTEN_SECONDS)  # fmt: skip
            except AccessRefused:
                raise
            except BrokerError:  # payloads are kept for a minute: there may have been some that are gone
                await asyncio.sleep(LISTEN_PAUSE)
                yield MISSED
                continue
            if last < seen:  # the hub has another file now
                yield MISSED
            seen = last
            for payload in payloads:
                yield payload

    def schedules(self) -> ScheduleStore:
        return HubSchedules(self.server, publishes=True)

    def operations(self) -> Operations:
        return HubOperations(self.server)

    async def clients(self) -> list[Client]:
        """Return the clients of the hub."""
        found: list[Client] = await self.server.ado("hub.clients")
        return found

    def close(self) -> None:
        self.server.close()

    def __repr__(self) -> str:
        return f"<HubBroker {self.server.address}>"


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            server_key: str | None = None, key_file: str | None = None) -> HubBroker:  # fmt: skip
    """Return the broker of a `zmq://` URL."""
    return HubBroker(server(url, server_key, key_file, timeout, codec), clock, result_expires)
