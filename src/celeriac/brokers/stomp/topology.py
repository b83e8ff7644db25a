"""The names of queues and topics on a STOMP server. Pure: nothing is sent here.

Queues sort by priority, so that a lane of a queue is one line. Queues come into being when something is sent to them:
that a line is in the journal is remembered by a *mark*, an empty message in a queue of marks.
"""

from __future__ import annotations

import re

from celeriac.brokers.queue_server.topology import NameRules, Topology
from celeriac.drivers.stomp.dialects import Dialect
from celeriac.drivers.stomp.server import Server

__all__ = ["StompTopology"]

FOREVER = 1e9  # seconds


class StompTopology(Topology):
    """The names on one server."""

    longest_delay = FOREVER
    rules = NameRules(
        "STOMP", "stomp_prefix", re.compile(r"(?! )[a-zA-Z0-9_\-.:@#/+ ]+(?<! )"),
        "ASCII letters, digits, - _ . : @ # / +, and spaces (not as the first or last character)",
        ("amq.", "ActiveMQ."), longest=180,
    )  # fmt: skip

    def __init__(self, prefix: str, dialect: Dialect) -> None:
        super().__init__(prefix, priority_lines=False)
        self.dialect = dialect
        self._stomp = f"{prefix}.stomp"
        self.journal = dialect.queue(f"{self._stomp}.journal")
        self.marks = dialect.queue(f"{self._stomp}.lines")
        self.workers = dialect.queue(f"{self._stomp}.workers")
        self.trials = dialect.queue(f"{self._stomp}.trials")

    @classmethod
    def on(cls, server: Server) -> StompTopology:
        """Return the names on a server to which a connection was made before."""
        return cls(server.prefix, server.facts.dialect)

    def topic(self, channel: str) -> str:
        """Return the destination of a channel."""
        return self.dialect.topic(f"{self._stomp}.{channel}")
