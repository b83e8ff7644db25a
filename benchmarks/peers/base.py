"""What a contender must be able to do.

The file `benchmarks/peers/NAME.py` assigns one to `PEER`. It is imported only in the processes that measure it, by
`benchmarks.driver` and by the contender's own worker, so it may import its library and make its app as it is imported;
the folder that belongs to this one measurement is `FOLDER`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

__all__ = ["AWAITED", "FOLDER", "FOLDER_VARIABLE", "KEPT", "NONE", "RABBITMQ_VARIABLE", "REDIS_VARIABLE", "RESULTS",
           "RESULTS_VARIABLE", "Peer"]  # fmt: skip

FOLDER_VARIABLE = "BENCHMARK_FOLDER"
FOLDER = Path(os.environ.get(FOLDER_VARIABLE, "."))
REDIS_VARIABLE = "BENCHMARK_REDIS"  # its URL
RABBITMQ_VARIABLE = "BENCHMARK_RABBITMQ"  # its URL, with the vhost of this one measurement
RESULTS_VARIABLE = "BENCHMARK_RESULTS"  # what is to be done about results:
NONE, KEPT, AWAITED = "none", "kept", "awaited"
RESULTS = os.environ.get(RESULTS_VARIABLE, KEPT)


class Peer(ABC):
    """A task queue with one no-op task, which returns its one argument, so that there is a result to be kept."""

    title: ClassVar[str]
    module: ClassVar[str]  # what a user imports
    packages: ClassVar[Sequence[str]]  # whose versions are told
    settings: str  # how it was set up; what it promises
    pace: ClassVar[int] = 0  # tasks per second that it drains, roughly: so many are queued for each second of a drain
    lead: ClassVar[float] = 0.0  # the share of a drain that has to be gone before it is timed

    @abstractmethod
    def send(self, count: int) -> None:
        """Send `count` messages one by one, the way its users do."""

    def send_many(self, count: int) -> None:
        """Send `count` messages by the fastest way that it offers."""
        self.send(count)

    def send_text(self, count: int, text: str) -> None:
        """Send `count` messages with this text as their argument."""
        raise NotImplementedError

    def send_naps(self, count: int) -> None:
        """Send `count` messages of a task that sleeps; which, and for how long, the contender's file says."""
        raise NotImplementedError

    def waiting(self) -> int:
        """Return how many messages the broker holds whose tasks have not ended."""
        raise NotImplementedError

    def hold(self, held: bool) -> None:
        """Let workers receive nothing; or again."""
        raise NotImplementedError

    def send_later(self, count: int, seconds: float) -> int:
        """Send `count` messages that are due in so many seconds; return how many the broker holds for later."""
        raise NotImplementedError

    @abstractmethod
    def roundtrip(self, timeout: float) -> Any:
        """Send one message, wait for its result, and return that."""

    def ready(self) -> None:
        """Return when a worker has run a task."""
        self.roundtrip(60.0)

    def roundtrips(self, count: int) -> list[float]:
        """Return the seconds that each of `count` round trips took. An asyncio library does this in one loop."""
        times = []
        for _ in range(count):
            start = perf_counter()
            self.roundtrip(60.0)
            times.append(perf_counter() - start)
        return times

    @abstractmethod
    def completed(self) -> int:
        """Return how many results are kept. Asked many times a second while workers are busy, so it must be cheap."""

    @abstractmethod
    def worker(self, children: int, tuned: bool) -> list[str]:
        """Return the command of a worker: set for speed, or, not `tuned`, as a user would start it."""
