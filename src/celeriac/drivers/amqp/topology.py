"""The names of exchanges and queues, and how they are declared. Pure: methods go out, nothing is sent here.

A *line* is what is in order: one lane of a queue, and where the server's queues know no priorities (quorum queues do
not), one priority of it. Each line is an AMQP queue. The line of plain functions and of priority 5 has the queue's
own name.

    default      default/coroutine      default/p9      default/coroutine/p9      default/dead

Delays: a cascade of queues, one for each binary digit of the time that is left, counted in quarters of a second. A
queue's messages all stay equally long, 2ⁿ quarters, so that its head is always the first that is due and none waits
behind another. The routing key spells the digits, lowest first, and then the line: `0.1.1.0. … .default`.

    celeriac.delay.0 ─0─► celeriac.delay.1 ─0─► …  ─► celeriac.due ─► the line
         └─1─► queue, ¼ s ─┘     └─1─► queue, ½ s ─┘
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from pamqp import commands

from celeriac.errors import BrokerError
from celeriac.model.message import LANES, PLAIN, Message

__all__ = ["DIGITS", "UNIT", "Line", "Topology", "queues_of"]

UNIT = 0.25  # seconds
DIGITS = 26  # the longest stay is 194 days; who has to wait longer is sent around again
USUAL = 5  # the priority whose line has the queue's own name
HIGHEST = 9
NO_LIMIT = -1  # of deliveries: whoever was delivered too often is buried by a worker, which says why
NAME = re.compile(r"[a-zA-Z0-9\-_.:@#,/+ ]+")
LONGEST = f"/{max(LANES, key=len)}/p{HIGHEST}"  # what is added to a queue's name, at most
KEY_BYTES = 255  # in a routing key

Table = dict[str, Any]


class Line(NamedTuple):
    """A lane of a queue; of one priority, or (None) of all."""

    queue: str
    lane: str
    priority: int | None


class Topology:
    """The names on one server; `limits`: whether its quorum queues drop what was delivered often, unless told."""

    def __init__(self, prefix: str, quorum: bool, limits: bool = False) -> None:
        self.quorum = quorum
        self._own = f"{prefix}."
        self.journal = f"{prefix}.journal"
        self.roll = f"{prefix}.workers"
        self.channels = f"{prefix}.channels"
        self.due = f"{prefix}.due"
        self._delay = f"{prefix}.delay."
        self._kept: Table = {"x-queue-type": "quorum"} if quorum else {}
        if quorum and limits:
            self._kept["x-delivery-limit"] = NO_LIMIT

    # --- Lines ----------------------------------------------------------------------------------------

    def line_of(self, message: Message) -> Line:
        """Return where a message waits."""
        return Line(message.queue, message.lane, message.priority if self.quorum else None)

    def usual(self, queue: str, lane: str) -> Line:
        """Return a lane's line that always exists."""
        return Line(queue, lane, USUAL if self.quorum else None)

    def name(self, line: Line) -> str:
        """Return a line's AMQP queue."""
        lane = "" if line.lane == PLAIN else f"/{line.lane}"
        return f"{line.queue}{lane}" if line.priority in (None, USUAL) else f"{line.queue}{lane}/p{line.priority}"

    def dead(self, queue: str) -> str:
        """Return the AMQP queue of a queue's dead letters."""
        return f"{queue}/dead"

    def check(self, queue: str) -> None:
        """Refuse what cannot be a queue's name, with all that is made of it. Raises `BrokerError`."""
        why = ""
        if not NAME.fullmatch(queue):
            why = "letters and digits of ASCII, spaces, and - _ . : @ # , / + alone can be in it"
        elif queue.startswith(("amq.", self._own)):
            why = f"what begins with 'amq.' is RabbitMQ's own, with {self._own!r} our own (`amqp_prefix`)"
        elif queue.endswith("/dead"):
            why = f"dead letters of the queue {queue.removesuffix('/dead')!r} are there"
        elif (over := len(self._key(f"{queue}{LONGEST}")) - KEY_BYTES) > 0:
            why = f"it is too long by {over} characters (others than letters, digits and - _ count as three)"
        if why:
            raise BrokerError(f"A queue cannot be named {queue!r} on AMQP: {why}. Choose another name.")

    def declare(self, line: Line) -> list[Any]:
        """Return what makes a line, and lets delayed messages reach it."""
        name = self.name(line)
        arguments: Table = self._kept if self.quorum else {"x-max-priority": HIGHEST}
        return [
            commands.Exchange.Declare(exchange=self.due, exchange_type="topic", durable=True),
            commands.Queue.Declare(queue=name, durable=True, arguments=arguments),
            commands.Queue.Bind(queue=name, exchange=self.due, routing_key=self._key(name)),
        ]

    def _key(self, name: str) -> str:
        """Return by what a queue is bound to the end of the delays."""
        return "*." * DIGITS + _word(name)

    def declare_dead(self, queue: str) -> Any:
        """Return what makes the queue of a queue's dead letters."""
        return commands.Queue.Declare(queue=self.dead(queue), durable=True, arguments=self._kept)

    # --- What is the same for all ---------------------------------------------------------------------

    def declare_channels(self) -> list[Any]:
        """Return what makes the exchange of broadcasts."""
        return [commands.Exchange.Declare(exchange=self.channels, exchange_type="direct", durable=True)]

    def declare_journal(self, channel: str) -> list[Any]:
        """Return what makes the journal: a queue that keeps what is sent on its channel.

        A classic one, whatever the others are: it is read again and again, which a quorum queue counts as deliveries.
        """
        arguments: Table = {"x-queue-type": "classic"} if self.quorum else {}
        return [
            *self.declare_channels(),
            commands.Queue.Declare(queue=self.journal, durable=True, arguments=arguments),
            commands.Queue.Bind(queue=self.journal, exchange=self.channels, routing_key=channel),
        ]

    def declare_roll(self) -> list[Any]:
        """Return what makes the queue from which every worker consumes nothing, and is counted."""
        return [commands.Queue.Declare(queue=self.roll, durable=True)]

    # --- Delays ---------------------------------------------------------------------------------------

    def delayed(self, delay: float, line: Line) -> tuple[str, str]:
        """Return the exchange and the routing key that bring a message to its line after a delay (seconds)."""
        quarters = min(max(1, math.ceil(delay / UNIT)), 2**DIGITS - 1)
        digits = f"{quarters:0{DIGITS}b}"[::-1]
        return f"{self._delay}{digits.index('1')}", ".".join((*digits, _word(self.name(line))))

    def declare_delays(self) -> list[Any]:
        """Return what makes the cascade, from its end to its beginning."""
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
        return [f"{self._delay}{digit}" for digit in range(DIGITS)]


def _word(name: str) -> str:
    """Return a name as one word of a routing key."""
    return quote(name, safe="").replace(".", "%2E")


def queues_of(lines: Iterable[Line]) -> Sequence[str]:
    """Return the queues that lines belong to."""
    return sorted({line.queue for line in lines})
