"""The interface of a contender.

The file `benchmarks/peers/NAME.py` assigns an instance to `PEER`. It is imported only in measuring processes, by
`benchmarks.driver` and by the contender's own worker, so it may import its library and create its app at import time.
`FOLDER` is the folder of the current measurement.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

__all__ = ["AWAITED", "FOLDER", "FOLDER_VARIABLE", "HUB_FILE_VARIABLE", "HUB_VARIABLE", "KEPT", "NONE",
           "RABBITMQ_VARIABLE", "REDIS_VARIABLE", "RESULTS",
           "RESULTS_VARIABLE", "STORE_VARIABLE", "Peer"]  # fmt: skip

FOLDER_VARIABLE = "BENCHMARK_FOLDER"
FOLDER = Path(os.environ.get(FOLDER_VARIABLE, "."))
REDIS_VARIABLE = "BENCHMARK_REDIS"  # its URL
RABBITMQ_VARIABLE = "BENCHMARK_RABBITMQ"  # its URL, with the vhost of the current measurement
HUB_VARIABLE = "BENCHMARK_HUB"  # its URL, with the keys
HUB_FILE_VARIABLE = "BENCHMARK_HUB_FILE"  # the file that it serves
STORE_VARIABLE = "BENCHMARK_STORE"  # the URL of the result backend that is measured
RESULTS_VARIABLE = "BENCHMARK_RESULTS"  # how results are handled, one of:
NONE, KEPT, AWAITED = "none", "kept", "awaited"
RESULTS = os.environ.get(RESULTS_VARIABLE, KEPT)


class Peer(ABC):
    """A task queue with one no-op task, which returns its argument, so that there is a result to store."""

    title: ClassVar[str]
    module: ClassVar[str]  # the module that users import
    packages: Sequence[str]  # whose versions are reported
    settings: str  # its configuration and guarantees, as text
    pace: ClassVar[int] = 0  # tasks per second that it drains, roughly: determines how many are queued for a drain
    lead: ClassVar[float] = 0.0  # the fraction of a drain that must be completed before timing starts

    @abstractmethod
    def send(self, count: int) -> None:
        """Send `count` messages one by one, as its users would."""

    def send_many(self, count: int) -> None:
        """Send `count` messages in the fastest way that it offers."""
        self.send(count)

    def send_text(self, count: int, text: str) -> None:
        """Send `count` messages with this text as their argument."""
        raise NotImplementedError

    def send_naps(self, count: int) -> None:
        """Send `count` messages of a sleeping task, which the contender's file defines."""
        raise NotImplementedError

    def waiting(self) -> int:
        """Return the number of messages in the broker whose tasks have not ended."""
        raise NotImplementedError

    def hold(self, held: bool) -> None:
        """Stop workers from receiving, or with `held=False` let them receive again."""
        raise NotImplementedError

    def send_later(self, count: int, seconds: float) -> int:
        """Send `count` messages that are due in `seconds`; return how many the broker holds as not yet due."""
        raise NotImplementedError

    @abstractmethod
    def roundtrip(self, timeout: float) -> Any:
        """Send one message, wait for its result, and return it."""

    def ready(self) -> None:
        """Wait until a worker has run a task."""
        self.roundtrip(60.0)

    def roundtrips(self, count: int) -> list[float]:
        """Return the seconds of each of `count` round trips. Asyncio libraries override this to use one event loop."""
        times = []
        for _ in range(count):
            start = perf_counter()
            self.roundtrip(60.0)
            times.append(perf_counter() - start)
        return times

    @abstractmethod
    def completed(self) -> int:
        """Return how many tasks have ended. Called many times a second during a drain, so it must be cheap."""

    @abstractmethod
    def worker(self, children: int, tuned: bool) -> list[str]:
        """Return the command line of a worker: set up for speed if `tuned`, otherwise as a user would start it."""
