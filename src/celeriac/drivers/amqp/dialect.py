"""What servers of AMQP 0-9-1 do in their own ways, as they say who they are when a connection is opened. Pure.

The protocol leaves the arguments of queues to the server: priorities, delays, who may read. Qpid Broker-J refuses those
that it does not know; RabbitMQ ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["BROKER_J", "RABBITMQ", "Dialect", "dialect_of"]

Table = dict[str, Any]

LONGEST_NAME = 60  # characters


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of server."""

    product: str
    of_lines: Table  # arguments of a queue that sorts by priority, and in which delayed messages may wait
    of_journal: Table = {}  # arguments of a queue that is read by one consumer after the other
    of_replies: Table = {}  # arguments of a reply queue, where the server knows no time after which it is deleted
    cascades: bool = True  # queues pass on what has stayed in them for a time: so messages are delayed
    counts_held: bool = False  # a queue's count includes messages that were delivered, and those that are not due
    windows_of_channels: bool = False  # `basic.qos` sets the window of a channel, not of the next consumers
    refuses_unroutable: bool = False  # … publications, and returns them after that; others confirm what they return

    def advice(self, words: str) -> str:
        """Return words that name RabbitMQ's own commands and settings; nothing for other servers."""
        return words if self.product == RABBITMQ.product else ""

    def hold(self, at: float) -> Table:
        """Return the headers of a message that the server holds until an instant (by its clock)."""
        return {"x-qpid-not-valid-before": int(at * 1000)}


RABBITMQ = Dialect(product="RabbitMQ", of_lines={"x-max-priority": 9})
BROKER_J = Dialect(
    product="Qpid Broker-J", of_lines={"x-qpid-priorities": 10, "holdOnPublishEnabled": True},
    of_journal={"x-single-active-consumer": True}, of_replies={"qpid.lifetime_policy": "DELETE_ON_NO_OUTBOUND_LINKS"},
    cascades=False, counts_held=True, windows_of_channels=True, refuses_unroutable=True,
)  # fmt: skip


def dialect_of(properties: Mapping[str, Any]) -> Dialect:
    """Return the dialect of a server, by the properties of its `connection.start`: RabbitMQ's, if it is not known.

    >>> dialect_of({"product": "LavinMQ"}).product
    'LavinMQ'
    """
    product = str(properties.get("product") or RABBITMQ.product)[:LONGEST_NAME]
    if "qpid" in product.lower() or any(name.startswith("qpid.") for name in properties):
        return BROKER_J
    return msgspec.structs.replace(RABBITMQ, product=product)
