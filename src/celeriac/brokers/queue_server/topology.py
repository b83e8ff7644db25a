"""Names the queues of a server. Pure: nothing is sent here.

A *line* is a sequence of messages in order: one lane of a queue and, where the server's queues have no priorities, one
priority of it. Each line is a queue of the server, whose name is the line's *address*. The line of plain functions,
and of priority 5, has the queue's own name:

    default      default/coroutine      default/p9      default/coroutine/p9      default/dead
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from celeriac.errors import NotSupported
from celeriac.model.message import LANES, PLAIN, Message

__all__ = ["DEAD", "HIGHEST_PRIORITY", "LONGEST_SUFFIX", "USUAL_PRIORITY", "Line", "NameRules", "Topology",
           "queues_of"]  # fmt: skip

USUAL_PRIORITY = 5  # the priority whose line has the queue's own name
HIGHEST_PRIORITY = 9
DEAD = "/dead"
LONGEST_SUFFIX = f"/{max(LANES, key=len)}/p{HIGHEST_PRIORITY}"  # that an address adds to the name of its queue
_LANE = f"/(?:{'|'.join(lane for lane in LANES if lane != PLAIN)})"
LANE_END = re.compile(f"{_LANE}$")  # that `Topology.address` adds to the name of a queue …
LINE_END = re.compile(rf"(?:{_LANE})?(?:/p\d)?$")  # … and where priorities are lines


class Line(NamedTuple):
    """A lane of a queue; of one priority, or (None) of all."""

    queue: str
    lane: str
    priority: int | None


class NameRules(NamedTuple):
    """Which names of queues a protocol's servers accept."""

    protocol: str
    setting: str  # of the prefix of Celeriac's own names
    pattern: re.Pattern[str]
    allowed: str  # the same in words
    reserved: tuple[str, ...]  # how the server's own names begin
    longest: int  # by `Topology.length`
    counted: str = ""  # how that counts, in words


class Topology:
    """The names on one server; `priority_lines`: whether each priority is a line, because queues do not sort by it."""

    rules: ClassVar[NameRules]

    longest_delay: float = float("inf")
    """Seconds that the server can hold a message; one that must wait longer is sent around again."""

    def __init__(self, prefix: str, priority_lines: bool) -> None:
        self.prefix = prefix
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

    def check(self, queue: str) -> None:
        """Refuse a queue whose name, or whose addresses, the server would not accept. Raises `NotSupported`."""
        rules, own, why = self.rules, f"{self.prefix}.", ""
        if not rules.pattern.fullmatch(queue):
            why = f"use only {rules.allowed}"
        elif queue.startswith((*rules.reserved, own)):
            theirs = " or ".join(map(repr, rules.reserved))
            why = f"names that begin with {theirs} belong to the server, with {own!r} to Celeriac (`{rules.setting}`)"
        elif queue.endswith(DEAD):
            why = f"it holds the dead letters of the queue {queue.removesuffix(DEAD)!r}"
        elif (whole := (LINE_END if self.priority_lines else LANE_END).sub("", queue)) != queue:
            why = f"it holds a part of the messages of the queue {whole!r}"
        elif (over := self.length(queue) - rules.longest) > 0:
            why = f"it is too long by {over} characters{rules.counted}"
        if why:
            raise NotSupported(f"A queue cannot be named {queue!r} on {rules.protocol}: {why}. Choose another name.")

    def length(self, queue: str) -> int:
        """Return the length of a queue's name, as the server counts."""
        return len(queue)


def queues_of(lines: Iterable[Line]) -> Sequence[str]:
    """Return the queues that lines belong to."""
    return sorted({line.queue for line in lines})
