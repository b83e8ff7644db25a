"""The names of queues and topics on a STOMP server. Pure: nothing is sent here.

Queues sort by priority, so that a lane of a queue is one line. Queues come into being when something is sent to them:
that a line is in the journal is remembered by a *mark*, an empty message in a queue of marks.
"""

from __future__ import annotations

import re

from celeriac.brokers.queue_server.topology import DEAD, Topology
from celeriac.drivers.stomp.dialects import Dialect
from celeriac.drivers.stomp.server import Server
from celeriac.errors import NotSupported

__all__ = ["StompTopology"]

NAME = re.compile(r"[a-zA-Z0-9_\-.:@#/+ ]+")
MOST_CHARACTERS = 180
FOREVER = 1e9  # seconds


class StompTopology(Topology):
    """The names on one server."""

    longest_delay = FOREVER

    def __init__(self, prefix: str, dialect: Dialect) -> None:
        super().__init__(priority_lines=False)
        self.dialect = dialect
        self._own = f"{prefix}."
        self._stomp = f"{prefix}.stomp"
        self.journal = dialect.queue(f"{self._stomp}.journal")
        self.marks = dialect.queue(f"{self._stomp}.lines")
        self.workers = dialect.queue(f"{self._stomp}.workers")
        self.trials = dialect.queue(f"{self._stomp}.trials")

    @classmethod
    def on(cls, server: Server) -> StompTopology:
        """Return the names on a server to which a connection was made before."""
        return cls(server.prefix, server.facts.dialect)

    def check(self, queue: str) -> None:
        why = ""
        if not NAME.fullmatch(queue):
            why = "use only ASCII letters, digits, spaces, and - _ . : @ # / +"
        elif queue != queue.strip():
            why = "it begins or ends with a space"
        elif queue.startswith(("amq.", "ActiveMQ.", self._own)):
            why = f"names that begin with 'amq.' or 'ActiveMQ.' are the server's, with {self._own!r} Celeriac's"
        elif queue.endswith(DEAD):
            why = f"it holds the dead letters of the queue {queue.removesuffix(DEAD)!r}"
        elif len(queue) > MOST_CHARACTERS:
            why = f"it has more than {MOST_CHARACTERS} characters"
        if why:
            raise NotSupported(f"A queue cannot be named {queue!r} on STOMP: {why}. Choose another name.")

    def topic(self, channel: str) -> str:
        """Return the destination of a channel."""
        return self.dialect.topic(f"{self._stomp}.{channel}")
