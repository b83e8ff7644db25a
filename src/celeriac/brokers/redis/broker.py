"""The Redis broker: publishing, revoking, broadcasting. For receiving and settling, see `lease.py`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import msgspec

from celeriac.brokers.redis.envelope import blob, due, publications
from celeriac.brokers.redis.lease import RedisLease
from celeriac.brokers.redis.operations import RedisOperations
from celeriac.drivers.redis.error_translation import InDoubt
from celeriac.drivers.redis.outcomes import milliseconds
from celeriac.drivers.redis.schedules import RedisScheduleStore
from celeriac.drivers.redis.server import Command, Server, server
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.message import Message, published_again
from celeriac.ports.backend import Backend
from celeriac.ports.broker import MISSED, Broker, Lease
from celeriac.ports.operations import Operations, WorkerInfo
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore

__all__ = ["RedisBroker", "connect"]

TOKEN = re.compile(r"[0-9a-f]{18}:[0-9]{1,15}:[0-9]{1,9}")  # of a message that may be run
WINDOW = 16  # batches that are sent in one round trip


class RedisBroker(Broker, ScheduleKeeper):
    """A broker that stores messages in Redis."""

    lacks = frozenset()

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.server = server
        self.clock = clock
        self.codec = server.codec
        self.result_expires = result_expires

    def publish(self, messages: Sequence[Message]) -> None:
        try:
            if len(messages) == 1 and messages[0].due_at is None:
                self.server.do(self._publication(messages[0]), again=False)
                return
            for commands in self._publications(messages, "publish"):
                self.server.do_all(commands, again=False)
        except InDoubt:
            for commands in self._publications(messages, "publish_again"):
                self.server.do_all(commands)

    async def apublish(self, messages: Sequence[Message], again: bool = False) -> None:
        if not again:
            with contextlib.suppress(InDoubt):
                if len(messages) == 1 and messages[0].due_at is None:
                    await self.server.ado(self._publication(messages[0]), again=False)
                    return
                for commands in self._publications(messages, "publish"):
                    await self.server.ado_all(commands, again=False)
                return
        else:
            messages = published_again(messages)  # another server may have their outcomes
        for commands in self._publications(messages, "publish_again"):
            await self.server.ado_all(commands)

    def _publication(self, message: Message) -> Command:
        return self.server.script("publish_one", message.queue, message.id, blob(message, self.codec))

    def _publications(self, messages: Sequence[Message], script: str) -> list[list[Command]]:
        moment = self.server.moment(self.clock)
        commands = [self.server.script(script, *batch) for batch in publications(messages, moment, self.codec)]
        return [commands[start : start + WINDOW] for start in range(0, len(commands), WINDOW)]

    async def lease(self, worker: WorkerInfo, seconds: float, max_deliveries: int) -> Lease:
        name = os.urandom(9).hex()  # part of every token, so never used twice
        info = self.codec.seal("worker", msgspec.json.encode([seconds, worker]))
        moment, asked_at = self.server.moment(self.clock), self.clock.steady()
        expires = await self.server.ado(self.server.script("enter", moment, name, repr(seconds), info))
        return RedisLease(self.server, self.clock, name, seconds, expires, max_deliveries, self.result_expires,
                          asked_at)  # fmt: skip

    def adopt(self, token: str, seconds: float) -> Lease | None:
        if not TOKEN.fullmatch(token):
            return None
        name = token.partition(":")[0]
        return RedisLease(self.server, self.clock, name, seconds, b"0", 0, self.result_expires, adopted=True)

    def joins(self, backend: Backend) -> bool:
        return getattr(backend, "server", None) is self.server

    async def revoke(self, ids: Sequence[str], until: float) -> None:
        if ids:
            await self.server.ado(self.server.script("revoke", repr(until), *ids))

    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        if payloads:
            name = self._broadcast_channel(channel)
            await self.server.ado_all([("PUBLISH", name, payload) for payload in payloads])

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        name = self._broadcast_channel(channel)
        payloads: deque[bytes] = deque()
        arrived = asyncio.Event()

        def hear(payload: bytes | None) -> None:
            payloads.append(MISSED if payload is None else payload)
            arrived.set()

        await self.server.hear(name, hear)

        async def listening() -> AsyncGenerator[bytes, None]:
            try:
                while True:
                    while payloads:
                        yield payloads.popleft()
                    arrived.clear()
                    await arrived.wait()
            finally:
                self.server.unhear(name, hear)

        return listening()

    def _broadcast_channel(self, channel: str) -> str:
        return f"{self.server.prefix}:broadcast:{channel}"

    def schedules(self) -> ScheduleStore:
        return RedisScheduleStore(self.server, self.clock, milliseconds(self.result_expires), self._packed)

    def _packed(self, message: Message) -> tuple[Any, ...]:
        return (message.queue, message.id, blob(message, self.codec), due(message))

    def operations(self) -> Operations:
        return RedisOperations(self.server, self.clock, self.result_expires)

    def close(self) -> None:
        self.server.close()

    def __repr__(self) -> str:
        return f"<RedisBroker {self.server.address}>"


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> RedisBroker:  # fmt: skip
    """Return the broker of a `redis://` URL."""
    return RedisBroker(server(url, prefix, timeout, codec), clock, result_expires)
