"""Retry policies: how often an attempt that failed is followed by another, and after how long.

`task.py` makes one from a task's options; `task.retry` and `execution.py` (for `autoretry_for`) ask it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from celeriac.errors import MaxRetriesExceeded
from celeriac.lazy import LazyModule
from celeriac.model.clock import seconds

if TYPE_CHECKING:
    import random
else:
    random = LazyModule("random")

__all__ = ["RetryPolicy", "exhausted"]


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential back-off with jitter, unless the task has a fixed delay.

    The jitter is the "equal jitter" of M. Brooker, "Exponential Backoff And Jitter" (2015): the wait is drawn uniformly
    between half the exponential bound and the bound, so that clients spread out and a wait is never close to zero.
    """

    max_retries: int | None = 3  # None: no limit
    delay: float | None = None  # seconds; a fixed delay instead of the back-off
    backoff: float = 1.0  # seconds before the first retry
    backoff_max: float = 600.0  # seconds at most
    jitter: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any], max_retries: int | None) -> RetryPolicy:
        """Return the policy of a task's options; `max_retries` is the default of the configuration."""
        backoff = options.get("retry_backoff", True)
        start = 1.0 if backoff is True or backoff is False else seconds(backoff, "retry_backoff")
        delay = options.get("default_retry_delay")
        if backoff is False and delay is None:
            delay = start
        return cls(
            max_retries=options.get("max_retries", max_retries),
            delay=delay,
            backoff=start,
            backoff_max=options.get("retry_backoff_max", 600.0),
            jitter=options.get("retry_jitter", True),
        )

    def allows(self, attempt: int) -> bool:
        """Return whether another attempt may follow this one (the first is 1)."""
        return self.max_retries is None or attempt <= self.max_retries

    def delay_after(self, attempt: int) -> float:
        """Return the seconds to wait after this attempt.

        >>> RetryPolicy(jitter=False).delay_after(4)
        8.0
        """
        if self.delay is not None:
            return self.delay
        # 2.0 ** 1024 overflows, and `backoff_max` applies long before that.
        bound = min(self.backoff * 2.0 ** min(attempt - 1, 1000), self.backoff_max)
        return bound * random.uniform(0.5, 1.0) if self.jitter else bound


def exhausted(task: str, id: str, attempt: int) -> MaxRetriesExceeded:
    """Return the error of a task that asks for a retry in its last attempt, and has no exception of its own."""
    return MaxRetriesExceeded(f"{task}[{id}] was retried {attempt - 1} times, its maximum.")
