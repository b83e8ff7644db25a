"""Names the queues of a server. Pure: nothing is sent here.

A *line* is a sequence of messages in order: one lane of a queue and, where the server's queues have no priorities, one
priority of it. Each line is a queue of the server, whose name is the line's *address*. The line of plain functions,
and of priority 5, has the queue's own name:

    default      default/coroutine      default/p9      default/coroutine/p9      default/dead
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from celeriac.model.message import LANES, PLAIN, Message

__all__ = ["DEAD", "HIGHEST_PRIORITY", "LONGEST_SUFFIX", "USUAL_PRIORITY", "Line", "Topology", "queues_of"]

USUAL_PRIORITY = 5  # the priority whose line has the queue's own name
HIGHEST_PRIORITY = 9
DEAD = "/dead"
LONGEST_SUFFIX = f"/{max(LANES, key=len)}/p{HIGHEST_PRIORITY}"  # that an address adds to the name of its queue


class Line(NamedTuple):
    """A lane of a queue; of one priority, or (None) of all."""

    queue: str
    lane: str
    priority: int | None


class Topology(ABC):
    """The names on one server; `priority_lines`: whether each priority is a line, because queues do not sort by it."""

    longest_delay: float = float("inf")
    """Seconds that the server can hold a message; one that must wait longer is sent around again."""

    def __init__(self, priority_lines: bool) -> None:
        self.priority_lines = priority_lines

    def line_of(self, message: Message) -> Line:
        """Return the line of a message."""
        return Line(message.queue, message.lane, message.priority if self.priority_lines else None)

    def usual(self, queue: str, lane: str) -> Line:
        """Return the line that each lane of a queue has, without an entry in the journal."""
        return Line(queue, lane, USUAL_PRIORITY if self.priority_lines else None)

    def address(self, line: Line) -> str:
        """Return the name of a line's queue on the server."""
        name = line.queue if line.lane == PLAIN else f"{line.queue}/{line.lane}"
        return name if line.priority in (None, USUAL_PRIORITY) else f"{name}/p{line.priority}"

    def dead(self, queue: str) -> str:
        """Return the address of a queue's dead letters."""
        return f"{queue}{DEAD}"

    @abstractmethod
    def check(self, queue: str) -> None:
        """Refuse a queue whose name, or whose addresses, the server would not accept. Raises `NotSupported`."""


def queues_of(lines: Iterable[Line]) -> Sequence[str]:
    """Return the queues that lines belong to."""
    return sorted({line.queue for line in lines})
