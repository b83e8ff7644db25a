"""Outcomes as STOMP messages, each sent to the reply queue of its caller: `rpc://`, on the broker's server.

STOMP deletes no queue. Outcomes that nobody reads expire, and a server that can be told to deletes the queue.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from celeriac.backends.replies import UNREAD_SECONDS, unread_seconds
from celeriac.backends.reply_subscriptions import SubscribingBackend
from celeriac.drivers.stomp.aio import AioConnection
from celeriac.drivers.stomp.frames import Frame, Publication, headers
from celeriac.drivers.stomp.server import Server
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome

__all__ = ["StompReplyBackend", "connect"]

WINDOW = "1000"


class StompReplyBackend(SubscribingBackend[Server, AioConnection]):
    """Outcomes that were sent to the reply queue of this process."""

    async def subscribe(self, connection: AioConnection, address: str) -> None:
        dialect = connection.facts.dialect

        def heard(frames: list[Frame]) -> None:
            connection.acknowledge([frame.headers.get("ack", "") for frame in frames])

        more = {dialect.window: WINDOW, **dialect.of_replies(unread_seconds())}
        _, begun = connection.subscribe(self.hearing(heard), dialect.queue(address), more=more)
        await begun

    def packed(self, outcomes: Sequence[Outcome]) -> list[Publication]:
        dialect = self.server.facts.dialect
        marks = headers({"persistent": "true", **dialect.expiry(time.time() + UNREAD_SECONDS)})
        encode = self.codec.encode_outcome
        return [Publication(dialect.existing(outcome.reply_to), marks, encode(outcome)) for outcome in outcomes]


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> StompReplyBackend:  # fmt: skip
    """Return the backend for a `stomp://` URL: `connections.py` replaces `rpc://` by the broker's URL."""
    return StompReplyBackend(Server.shared(url, prefix, timeout, codec), clock, result_expires)
