"""What contenders for workflows have in common: the same three workflows, and a way to send them unheard."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar
from urllib.parse import urlsplit

from benchmarks.peers.redis_peer import URL
from benchmarks.redis_line import Line, info

__all__ = ["WorkflowPeer", "add_one", "count"]


def count(values: list[Any]) -> int:
    return len(values)


def add_one(number: int) -> int:
    return number + 1


class WorkflowPeer:
    """A contender with groups, chords and chains of no-op tasks."""

    title: ClassVar[str]

    @abstractmethod
    def group(self, count: int) -> Any:
        """Return a group of `count` no-ops, not sent yet."""

    @abstractmethod
    def chord(self, count: int) -> Any:
        """Return a chord of `count` no-ops, whose body returns how many there were."""

    @abstractmethod
    def chain(self, count: int) -> Any:
        """Return a chain of `count` tasks that each add one; it begins with 0."""

    def sent_bytes(self) -> int:
        """Return how many bytes the server has received so far."""
        return int(info(Line(urlsplit(URL).port or 6379), "stats")["total_net_input_bytes"])
