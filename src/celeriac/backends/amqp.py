"""Outcomes as AMQP messages, each sent to the reply queue of its caller: `rpc://`, on the broker's server.

The queue survives lost connections and restarts of the server. It is deleted when its process ends or, if the process
was killed, after `unread_seconds` without a reader.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
import weakref
from collections.abc import Sequence
from functools import partial
from typing import Any

from pamqp import commands

from celeriac import signals
from celeriac.backends.replies import unread_seconds
from celeriac.backends.reply_subscriptions import SubscribingBackend
from celeriac.drivers.amqp.aio import AioConnection
from celeriac.drivers.amqp.frames import Content, Publication, acknowledge, properties
from celeriac.drivers.amqp.server import FRESH_SECONDS, Server, each
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome

__all__ = ["RpcBackend", "connect"]

LEAVING_SECONDS = 2.0  # for the server to delete the reply queues of a process that ends


class RpcBackend(SubscribingBackend[Server, AioConnection]):
    """Outcomes that were sent to the reply queue of this process."""

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        super().__init__(server, clock, result_expires)
        _backends.add(self)

    async def subscribe(self, connection: AioConnection, address: str) -> None:
        channel = await connection.channel()

        def heard(contents: list[Content]) -> None:
            channel.tell(acknowledge(channel.number, contents[-1].tag, multiple=True))

        channel.on_content = self.hearing(heard)
        channel.tell_end(lambda why: connection.abandon(str(why)))
        arguments: dict[str, Any] = self.server.facts.dialect.of_replies or {"x-expires": int(unread_seconds() * 1000)}
        if self.server.quorum:
            arguments |= {"x-queue-type": "quorum"}
        _declared[address] = self.server
        await channel.call(commands.Queue.Declare(queue=address, durable=True, arguments=arguments))
        begun = await channel.call(commands.Basic.Consume(queue=address))
        self._consumer = channel, begun.consumer_tag

    @property
    def fresh_seconds(self) -> float | None:  # type: ignore[override]
        return FRESH_SECONDS if self.server.is_cluster else None

    async def renew(self, connection: AioConnection, address: str) -> None:
        channel, consumer_tag = self._consumer
        await self.subscribe(connection, address)
        await channel.call(commands.Basic.Cancel(consumer_tag))  # the answer comes after all that was sent
        channel.close()

    def packed(self, outcomes: Sequence[Outcome]) -> list[Publication]:
        encode = self.codec.encode_outcome
        return [Publication("", outcome.reply_to, properties(), encode(outcome)) for outcome in outcomes]


_backends: weakref.WeakSet[RpcBackend] = weakref.WeakSet()
_declared: dict[str, Server] = {}  # reply queues, by this process, which deletes them when it ends


def _leave(**_: Any) -> None:
    """Delete the reply queues of a process that ends. If the server does not answer, they expire."""
    for backend in list(_backends):
        backend.rest()
    deadline = time.monotonic() + LEAVING_SECONDS
    while _declared and time.monotonic() < deadline:
        queue, server = _declared.popitem()
        with contextlib.suppress(BrokerError):
            server.do(partial(each, [commands.Queue.Delete(queue=queue)]), deadline - time.monotonic())


atexit.register(_leave)
signals.worker_process_shutdown.connect(_leave)  # such a process runs no `atexit`
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_declared.clear)  # the queues are the parent's


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac", queue_type: str = "auto") -> RpcBackend:  # fmt: skip
    """Return the backend for an `amqp://` URL: `connections.py` replaces `rpc://` by the broker's URL."""
    return RpcBackend(Server.shared(url, prefix, queue_type, timeout, codec), clock, result_expires)
