"""Outcomes as AMQP messages: how reply queues are declared and read, and outcomes sent (see `replies.py`)."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

from pamqp import commands

from celeriac.backends.reply_queues import HEARTBEAT, Replies, ReplyConnection, ReplyQueueBackend
from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.frames import Content, Publication, acknowledge, properties
from celeriac.drivers.amqp.server import Server, each
from celeriac.drivers.server_errors import ConnectionLost
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["RpcBackend", "connect"]

CHANNEL = 1


class RpcBackend(ReplyQueueBackend):
    """Outcomes that were sent to this process."""

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        super().__init__(_AmqpReplies(server), clock, result_expires)
        self.server = server


class _AmqpReplies(Replies):
    """An AMQP server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.prefix = server.prefix
        self.codec = server.codec

    async def send(self, items: Sequence[tuple[str, bytes]]) -> None:
        publications = [Publication("", queue, properties(), body) for queue, body in items]
        await self.server.ado(lambda: _sending(publications))

    def declare(self, queue: str, unread: float) -> None:
        self.server.do(partial(self._declaring, queue, unread))

    def _declaring(self, queue: str, unread: float) -> Generator[Any, Any, None]:
        arguments: dict[str, Any] = self.server.facts.dialect.of_replies or {"x-expires": int(unread * 1000)}
        if self.server.quorum:
            arguments |= {"x-queue-type": "quorum"}
        yield commands.Queue.Declare(queue=queue, durable=True, arguments=arguments)

    def delete(self, queue: str, within: float) -> None:
        self.server.do(partial(each, [commands.Queue.Delete(queue=queue)]), within)

    def connect(self, queue: str, unread: float) -> ReplyConnection:
        connection = self.server.connect(self.server.timeout, HEARTBEAT, "celeriac replies")
        try:
            deadline = time.monotonic() + self.server.timeout
            for what in self._declaring(queue, unread):
                connection.call(what, deadline)
            connection.call(commands.Basic.Consume(queue=queue), deadline)
        except BaseException:
            connection.close()
            raise
        return _AmqpReplyConnection(connection)

    def close(self) -> None:
        self.server.close()

    def __str__(self) -> str:
        return str(self.server.address)


class _AmqpReplyConnection(ReplyConnection):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last: Content | None = None  # of those that the last call returned

    def read(self, seconds: float) -> list[bytes]:
        connection = self._connection
        if self._last is not None:
            connection.send(acknowledge(CHANNEL, self._last.tag, multiple=True))
            self._last = None
        connection.beat()
        event = connection.wait(seconds)
        if event is None:
            return []
        events = [event, *connection.rest()]
        contents = [event for event in events if isinstance(event, Content)]
        if len(contents) < len(events):  # a `basic.cancel`: the server sends nothing else unasked
            raise ConnectionLost("the reply queue was deleted, or its node has failed")
        self._last = contents[-1]
        return [content.body for content in contents]

    def wake(self) -> None:
        self._connection.wake()

    def close(self) -> None:
        self._connection.close()


def _sending(items: list[Publication]) -> Generator[Any, Any, None]:
    yield items  # an unroutable outcome has no caller that waits for it


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac", queue_type: str = "auto") -> RpcBackend:  # fmt: skip
    """Return the backend for an `amqp://` URL: `connections.py` replaces `rpc://` by the broker's URL."""
    return RpcBackend(Server.shared(url, prefix, queue_type, timeout, codec), clock, result_expires)
