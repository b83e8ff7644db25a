"""Base class of the workflow contenders: the same three workflows for each, and a count of the bytes sent."""

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
    """A contender with groups, chords and chains of trivial tasks."""

    title: ClassVar[str]

    @abstractmethod
    def group(self, count: int) -> Any:
        """Return an unsent group of `count` no-op tasks."""

    @abstractmethod
    def chord(self, count: int) -> Any:
        """Return an unsent chord of `count` no-op tasks, whose body returns their number."""

    @abstractmethod
    def chain(self, count: int) -> Any:
        """Return an unsent chain of `count` tasks that each add one, starting from 0."""

    def sent_bytes(self) -> int:
        """Return the number of bytes that the server has received so far."""
        return int(info(Line(urlsplit(URL).port or 6379), "stats")["total_net_input_bytes"])
