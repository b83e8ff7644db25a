"""Outcomes as messages of AMQP 1.0, each sent to its caller: `rpc://`, on the broker's server.

A calling process subscribes to a topic, which the server forgets with the connection; what is sent while nobody
subscribes is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.backends.reply_subscriptions import SubscribingBackend
from celeriac.drivers.amqp10.connection import Connection, Item
from celeriac.drivers.amqp10.messages import encode
from celeriac.drivers.amqp10.server import Server
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome

__all__ = ["Amqp10RpcBackend", "connect"]


class Amqp10RpcBackend(SubscribingBackend[Server, Connection]):
    """Outcomes that were sent to the topic of this process."""

    async def subscribe(self, connection: Connection, address: str) -> None:
        node = self.server.dialect.subscription(address)
        await connection.follow(node, self._heard, lambda why: connection.abandon(str(why)))

    def _heard(self, body: bytes) -> None:
        outcome = self.decoded(body)
        if outcome is not None:
            self.hear([outcome])

    def packed(self, outcomes: Sequence[Outcome]) -> list[Item]:
        items: list[Item] = []
        for outcome in outcomes:
            node, subject = self.server.dialect.topic(outcome.reply_to)
            items.append(Item(node, encode(self.codec.encode_outcome(outcome), subject=subject)))
        return items


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> Amqp10RpcBackend:  # fmt: skip
    """Return the backend for an `amqp10://` URL: `connections.py` replaces `rpc://` by the broker's URL."""
    return Amqp10RpcBackend(Server.shared(url, prefix, timeout, codec), clock, result_expires)
