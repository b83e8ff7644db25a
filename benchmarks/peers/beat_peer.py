"""The interface of a contender that has a scheduler of periodic tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

__all__ = ["BeatPeer"]


class BeatPeer(ABC):
    """A scheduler, and what it sends: messages that no worker receives."""

    title: ClassVar[str]
    module: ClassVar[str]  # the module that users import
    packages: ClassVar[tuple[str, ...]]  # whose versions are reported
    settings: str  # its configuration and guarantees, as text
    pace = 0

    @abstractmethod
    def schedule(self, count: int, period: int) -> None:
        """Store so many schedules, if it has a store: each with a period in seconds, spread evenly over its seconds."""

    @abstractmethod
    def beat(self, seconds: int, count: int, period: int) -> dict[str, Any]:
        """Run a scheduler of these schedules for a time.

        Return how many ticks it has `sent`, and how `late` each was, in seconds, where that is known. Those that fell
        due before it had caught up with its start do not count; `seconds` is how long the others had.
        """

    @abstractmethod
    def declare(self, count: int) -> float:
        """Return the seconds that a scheduler needs to start with so many schedules that code declares."""
