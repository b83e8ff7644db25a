"""The names of exchanges and queues on a server, and how they are declared. Pure: methods go out, nothing is sent here.

Quorum queues have no priorities, so that each priority is a line there; classic queues have them.

Delays: a cascade of queues, one for each binary digit of the time that is left, counted in quarters of a second. All
messages stay equally long in a queue, 2ⁿ quarters, so that its head is always the first that is due and none waits
behind another. The routing key spells the digits, lowest first, and then the line: `0.1.1.0. … .default`.

    celeriac.delay.0 ─0─► celeriac.delay.1 ─0─► …  ─► celeriac.due ─► the line
         └─1─► queue, ¼ s ─┘     └─1─► queue, ½ s ─┘

Where queues pass nothing on (Qpid Broker-J), a message waits in its line, with a header that says until when.
"""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import quote

from pamqp import commands

from celeriac.brokers.queue_server.topology import LONGEST_SUFFIX, Line, NameRules, Topology
from celeriac.drivers.amqp.dialect import RABBITMQ, Dialect
from celeriac.drivers.amqp.server import Server

__all__ = ["DIGITS", "UNIT", "AmqpTopology"]

UNIT = 0.25  # seconds
YEARS = 10 * 365 * 86400.0  # seconds
DIGITS = 26  # the longest stay is 194 days; a message that has to wait longer is sent around again
NO_LIMIT = -1  # of deliveries: a worker makes a dead letter of a message that was delivered too often, and says why

Table = dict[str, Any]


class AmqpTopology(Topology):
    """The names on one server; `limits`: whether its quorum queues have a limit of deliveries by default."""

    rules = NameRules(
        "AMQP", "amqp_prefix", re.compile(r"[a-zA-Z0-9\-_.:@#,/+ ]+"),
        "ASCII letters, digits, spaces, and - _ . : @ # , / +", ("amq.",), longest=255,
        counted=" (all but letters, digits and - _ count as three)",
    )  # fmt: skip

    def __init__(self, prefix: str, quorum: bool, limits: bool = False, dialect: Dialect = RABBITMQ) -> None:
        super().__init__(prefix, priority_lines=quorum)
        self.quorum = quorum
        self.dialect = dialect
        self.longest_delay = UNIT * (2**DIGITS - 1) if dialect.cascades else YEARS
        self.journal = f"{prefix}.quorum.journal" if quorum else f"{prefix}.journal"
        self.presence = f"{prefix}.quorum.workers" if quorum else f"{prefix}.workers"
        self.channels = f"{prefix}.channels"
        self.due = f"{prefix}.due"
        self._delay = f"{prefix}.delay."
        self._durable: Table = {"x-queue-type": "quorum"} if quorum else {}
        if quorum and limits:
            self._durable["x-delivery-limit"] = NO_LIMIT

    @classmethod
    def on(cls, server: Server) -> AmqpTopology:
        """Return the names on a server to which a connection was made before."""
        return cls(server.prefix, server.quorum, server.facts.prefers_quorum, server.facts.dialect)

    # --- Lines ----------------------------------------------------------------------------------------

    def length(self, queue: str) -> int:
        """Return the bytes of the longest routing key."""
        return len(self._key(f"{queue}{LONGEST_SUFFIX}"))

    def declare(self, line: Line) -> list[Any]:
        """Return what declares a line's queue; and the end of the delays, and the binding to it, where they cascade."""
        name = self.address(line)
        arguments: Table = self._durable if self.quorum else self.dialect.of_lines
        queue = commands.Queue.Declare(queue=name, durable=True, arguments=arguments)
        if not self.dialect.cascades:
            return [queue]
        return [
            queue,
            commands.Exchange.Declare(exchange=self.due, exchange_type="topic", durable=True),
            commands.Queue.Bind(queue=name, exchange=self.due, routing_key=self._key(name)),
        ]

    def _key(self, name: str) -> str:
        """Return the key with which a queue is bound to the end of the delays."""
        return "*." * DIGITS + _word(name)

    def declare_dead(self, queue: str) -> Any:
        """Return the method that declares the queue of a queue's dead letters."""
        return commands.Queue.Declare(queue=self.dead(queue), durable=True, arguments=self._durable)

    @property
    def has_turns(self) -> bool:
        """Whether the journal passes all messages to one consumer, and to the next one after it."""
        return self.quorum or bool(self.dialect.of_journal)

    # --- What all queues share ------------------------------------------------------------------------

    def declare_channels(self) -> list[Any]:
        """Return the methods that declare the exchange of broadcasts."""
        return [commands.Exchange.Declare(exchange=self.channels, exchange_type="direct", durable=True)]

    def declare_journal(self, channel: str) -> list[Any]:
        """Return the methods that declare the journal: a queue that stores what is sent on its channel.

        A quorum queue has no exclusive consumers. It passes all messages to one consumer, and to the next one after it.
        """
        turns = {**self._durable, "x-single-active-consumer": True}
        arguments: Table = turns if self.quorum else self.dialect.of_journal
        return [
            *self.declare_channels(),
            commands.Queue.Declare(queue=self.journal, durable=True, arguments=arguments),
            commands.Queue.Bind(queue=self.journal, exchange=self.channels, routing_key=channel),
        ]

    def declare_presence(self) -> list[Any]:
        """Return the methods that declare an empty queue, from which each worker consumes to be counted."""
        return [commands.Queue.Declare(queue=self.presence, durable=True, arguments=self._durable)]

    # --- Delays ---------------------------------------------------------------------------------------

    def delayed(self, delay: float, line: Line) -> tuple[str, str]:
        """Return the exchange and the routing key that bring a message to its line after a delay (seconds)."""
        quarters = min(max(1, math.ceil(delay / UNIT)), 2**DIGITS - 1)
        digits = f"{quarters:0{DIGITS}b}"[::-1]
        return f"{self._delay}{digits.index('1')}", ".".join((*digits, _word(self.address(line))))

    def declare_delays(self) -> list[Any]:
        """Return the methods that declare the cascade, from its end to its beginning."""
        if not self.dialect.cascades:
            return []
        made: list[Any] = [commands.Exchange.Declare(exchange=self.due, exchange_type="topic", durable=True)]
        following = self.due
        for digit in reversed(range(DIGITS)):
            name = f"{self._delay}{digit}"
            arguments: Table = {"x-message-ttl": int(UNIT * 1000) << digit, "x-dead-letter-exchange": following}
            if self.quorum:
                arguments |= {"x-queue-type": "quorum", "x-dead-letter-strategy": "at-least-once",
                              "x-overflow": "reject-publish"}  # fmt: skip
            one, zero = ("*." * digit + f"{value}.#" for value in (1, 0))
            made += [
                commands.Exchange.Declare(exchange=name, exchange_type="topic", durable=True),
                commands.Queue.Declare(queue=name, durable=True, arguments=arguments),
                commands.Queue.Bind(queue=name, exchange=name, routing_key=one),
                commands.Exchange.Bind(destination=following, source=name, routing_key=zero),
            ]
            following = name
        return made

    def delay_queues(self) -> list[str]:
        """Return the queues of the cascade."""
        return [f"{self._delay}{digit}" for digit in range(DIGITS)] if self.dialect.cascades else []


def _word(name: str) -> str:
    """Return a name as one word of a routing key."""
    return quote(name, safe="").replace(".", "%2E")
