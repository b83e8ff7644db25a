"""Outcomes as STOMP messages: how reply queues are declared and read, and outcomes sent (see `replies.py`).

STOMP deletes no queue. Outcomes that nobody reads expire, and a server that can be told to deletes the queue.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from celeriac.backends.reply_queues import HEARTBEAT, UNREAD_SECONDS, Replies, ReplyConnection, ReplyQueueBackend
from celeriac.drivers.stomp.blocking import Connection
from celeriac.drivers.stomp.error_translation import Refused
from celeriac.drivers.stomp.frames import Publication, frame, headers
from celeriac.drivers.stomp.opening import subscribe
from celeriac.drivers.stomp.server import Server, server
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["StompReplyBackend", "connect"]

WINDOW = "1000"


class StompReplyBackend(ReplyQueueBackend):
    """Outcomes that were sent to this process."""

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        super().__init__(_StompReplies(server), clock, result_expires)
        self.server = server


class _StompReplies(Replies):
    """A STOMP server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.prefix = server.prefix
        self.codec = server.codec

    async def send(self, items: Sequence[tuple[str, bytes]]) -> None:
        dialect = (await self.server.learn()).dialect
        marks = headers({"persistent": "true", **dialect.expiry(time.time() + UNREAD_SECONDS)})
        publications = [Publication(dialect.existing(queue), marks, body) for queue, body in items]
        await self.server.ado(lambda: _sending(publications))

    def is_too_large(self, error: BrokerError) -> bool:
        return isinstance(error, Refused) and error.too_large

    def declare(self, queue: str, unread: float) -> None:
        def asked() -> Generator[Any, Any, None]:
            yield []

        self.server.do(asked)  # raises where the server is not reached, within the time-out
        if self.server.facts.dialect.of_replies(1.0):
            self.connect(queue, unread).close()

    def delete(self, queue: str, within: float) -> None:
        pass

    def connect(self, queue: str, unread: float) -> ReplyConnection:
        connection = self.server.connect(self.server.timeout, HEARTBEAT)
        try:
            dialect = connection.facts.dialect
            more = {dialect.window: WINDOW, "receipt": "replies", **dialect.of_replies(unread)}
            connection.send(subscribe("replies", dialect.queue(queue), "client-individual", more))
            made = _StompReplyConnection(connection)
            made.begin(self.server.timeout)
        except BaseException:
            connection.close()
            raise
        return made

    def close(self) -> None:
        self.server.close()

    def __str__(self) -> str:
        return str(self.server.address)


class _StompReplyConnection(ReplyConnection):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read: list[bytes] = []
        self._last: list[str] = []  # what acknowledges those that the last call returned

    def begin(self, within: float) -> None:
        """Return when the server has confirmed the subscription."""
        deadline = time.monotonic() + within
        begun = False
        while not begun:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            begun = self._take(left)

    def _take(self, seconds: float) -> bool:
        """Take what arrives; say whether a receipt is among it."""
        frames = self._connection.wait(seconds)
        for found in frames:
            if found.command == "MESSAGE":
                self._read.append(found.body)
                self._last.append(found.headers.get("ack", ""))
        return any(found.command == "RECEIPT" for found in frames)

    def read(self, seconds: float) -> list[bytes]:
        if not self._read:
            if self._last:
                self._connection.send(b"".join([frame("ACK", {"id": id}) for id in self._last]))
                self._last = []
            self._connection.beat()
            self._take(seconds)
        found, self._read = self._read, []
        return found

    def wake(self) -> None:
        self._connection.wake()

    def close(self) -> None:
        self._connection.close()


def _sending(items: list[Publication]) -> Generator[Any, Any, None]:
    yield items


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> StompReplyBackend:  # fmt: skip
    """Return the backend for a `stomp://` URL: `connections.py` replaces `rpc://` by the broker's URL."""
    return StompReplyBackend(server(url, prefix, timeout, codec), clock, result_expires)
