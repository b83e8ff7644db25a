"""The names of queues and topics on a server of AMQP 1.0. Pure.

A server need not sort its queues by priority, and does not say whether it does: so each priority is a line.
"""

from __future__ import annotations

import re

from celeriac.brokers.queue_server.topology import LONGEST_SUFFIX, NameRules, Topology
from celeriac.drivers.amqp10.dialect import Dialect
from celeriac.drivers.amqp10.links import Node
from celeriac.drivers.amqp10.server import Server

__all__ = ["Amqp10Topology"]

YEARS = 10 * 365 * 86400.0  # seconds


class Amqp10Topology(Topology):
    """The names on one server."""

    longest_delay = YEARS
    rules = NameRules(
        "AMQP 1.0", "amqp10_prefix", re.compile(r"(?!/)(?!.*(?:::|//))[a-zA-Z0-9\-_.:@/+ ]+"),
        "ASCII letters, digits, spaces, and - _ . : @ / + (no :: and //, no / at the beginning)",
        ("amq.", "qpid.", "$"), longest=200 - len(LONGEST_SUFFIX),
    )  # fmt: skip

    def __init__(self, prefix: str, dialect: Dialect) -> None:
        super().__init__(prefix, priority_lines=True)
        self.dialect = dialect
        self.journal, self.turn = f"{prefix}.journal", f"{prefix}.turn"
        self.workers, self.left = f"{prefix}.workers", f"{prefix}.workers.left"

    @classmethod
    def on(cls, server: Server) -> Amqp10Topology:
        """Return the names on a server to which a connection was made before."""
        return cls(server.prefix, server.dialect)

    def queue(self, address: str) -> Node:
        """Return the node of a queue."""
        return self.dialect.queue(address)

    def channel(self, name: str) -> str:
        """Return the name of a channel's topic."""
        return f"{self.prefix}.channels.{name}"
