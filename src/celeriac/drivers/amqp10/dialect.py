"""What one server of AMQP 1.0 can do, and how it wants to be addressed: by what it says when a connection is opened.

The protocol leaves much to the server: how a queue is named and made, how messages reach all subscribers, whether it
tells how many messages wait. A server that is not known here is expected to follow the conventions of JMS, as ActiveMQ
and Artemis do: the capabilities `queue` and `topic` of a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from celeriac.drivers.amqp10.links import Node

__all__ = ["DELAYED", "RABBITMQ", "Dialect", "dialect_of"]

RABBITMQ, QPID = "rabbitmq", "qpid"

EXCHANGE = "amq.topic"
DELAYED = "DELAYED_DELIVERY"
FULL = 4  # the RabbitMQ from which AMQP 1.0 is no plugin


class Dialect(NamedTuple):
    """A server's ways."""

    product: str
    kind: str = ""  # "rabbitmq", "qpid", or empty: JMS
    delays: bool = False  # it holds messages until the time that they say
    waits: bool = False  # … or for a number of seconds, by its own clock
    counts: bool = True  # it counts failed deliveries exactly
    tells: bool = False  # a flow tells how many messages wait
    drains: bool = True  # it answers when it has sent all that it can
    copies: bool = True  # it shows messages without taking them
    leaves: bool = False  # it keeps the queue of a subscriber that has gone

    def queue(self, name: str) -> Node:
        """Return the node of a queue, which attaching makes where the server is set up for that."""
        if self.kind == RABBITMQ:
            return Node(f"/queue/{quote(name, safe='')}")
        return Node(name, ("queue", "create-on-demand") if self.kind == QPID else ("queue",))

    def existing(self, name: str) -> Node | None:
        """Return the node of a queue which attaching does not make; None where it may always do so."""
        return Node(f"/amq/queue/{quote(name, safe='')}") if self.kind == RABBITMQ else None

    def topic(self, name: str) -> tuple[Node, str]:
        """Return the node that broadcasts are sent to, and the subject that they have there."""
        if self.kind == RABBITMQ:
            return Node(f"/exchange/{EXCHANGE}", temporary=True), name
        if self.kind == QPID:
            return Node(EXCHANGE, temporary=True), name
        return Node(name, ("topic",), temporary=True), ""

    def subscription(self, name: str) -> Node:
        """Return the node that a subscriber of broadcasts receives from."""
        if self.kind == RABBITMQ:  # … which makes a queue that nothing a link says has it delete again
            return Node(f"/exchange/{EXCHANGE}/{quote(name, safe='')}", temporary=True)
        if self.kind == QPID:
            return Node(EXCHANGE, subject=name, temporary=True)
        return Node(name, ("topic",), temporary=True)


def dialect_of(properties: Mapping[str, Any], capabilities: frozenset[str]) -> Dialect:
    """Return the dialect of a server, by the properties and capabilities of its `open`."""
    product = str(properties.get("product") or "A server without a name")
    delays = DELAYED in capabilities
    if product == "RabbitMQ":
        major = str(properties.get("version", "")).partition(".")[0]
        full = major.isdecimal() and len(major) < 9 and int(major) >= FULL
        # Before, its classic queues end the session that drains them while credit is left.
        return Dialect(product, RABBITMQ, delays, counts=False, tells=True, drains=full, copies=False, leaves=True)
    waits = delays and "activemq" in product.lower()
    return Dialect(product, QPID if product.lower().startswith(QPID) else "", delays, waits)
