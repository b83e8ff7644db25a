"""The names of queues and topics on a server of AMQP 1.0. Pure.

A server need not sort its queues by priority, and does not say whether it does: so each priority is a line.
"""

from __future__ import annotations

import re

from celeriac.brokers.queue_server.topology import DEAD, LONGEST_SUFFIX, Topology
from celeriac.drivers.amqp10.dialect import Dialect
from celeriac.drivers.amqp10.links import Node
from celeriac.drivers.amqp10.server import Server
from celeriac.errors import NotSupported

__all__ = ["Amqp10Topology"]

NAME = re.compile(r"[a-zA-Z0-9\-_.:@/+ ]+")
LONGEST = 200
YEARS = 10 * 365 * 86400.0  # seconds


class Amqp10Topology(Topology):
    """The names on one server."""

    longest_delay = YEARS

    def __init__(self, prefix: str, dialect: Dialect) -> None:
        super().__init__(priority_lines=True)
        self.dialect = dialect
        self.prefix = prefix
        self.journal, self.turn = f"{prefix}.journal", f"{prefix}.turn"
        self.workers, self.left = f"{prefix}.workers", f"{prefix}.workers.left"

    @classmethod
    def on(cls, server: Server) -> Amqp10Topology:
        """Return the names on a server to which a connection was made before."""
        return cls(server.prefix, server.dialect)

    def check(self, queue: str) -> None:
        why = ""
        if not NAME.fullmatch(queue) or "::" in queue or "//" in queue or queue.startswith("/"):
            why = "use only ASCII letters, digits, spaces, and - _ . : @ / + (no :: and //, no / at the beginning)"
        elif queue.startswith(("amq.", "qpid.", "$", f"{self.prefix}.")):
            why = f"names that begin with 'amq.' and 'qpid.' belong to servers, with '{self.prefix}.' to Celeriac"
        elif queue.endswith(DEAD):
            why = f"it holds the dead letters of the queue {queue.removesuffix(DEAD)!r}"
        elif (over := len(queue) + len(LONGEST_SUFFIX) - LONGEST) > 0:
            why = f"it is too long by {over} characters"
        if why:
            raise NotSupported(f"A queue cannot be named {queue!r} on AMQP 1.0: {why}. Choose another name.")

    def queue(self, address: str) -> Node:
        """Return the node of a queue."""
        return self.dialect.queue(address)

    def channel(self, name: str) -> str:
        """Return the name of a channel's topic."""
        return f"{self.prefix}.channels.{name}"
