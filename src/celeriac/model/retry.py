"""When to try again: how often, and after how long."""

from __future__ import annotations

import random

import msgspec

__all__ = ["RetryPolicy"]


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Exponential back-off with full jitter, unless the task names a fixed delay.

    Full jitter is the variant of exponential back-off in which the wait is drawn evenly from zero to the
    exponential bound; it spreads a herd of clients best (M. Brooker, "Exponential Backoff And Jitter", 2015).
    Here the draw is from half the bound up, so that a wait is never nothing.
    """

    max_retries: int | None = 3  # None: for ever
    delay: float | None = None  # seconds; a fixed delay in place of the back-off
    backoff: float = 1.0  # seconds before the first retry
    backoff_max: float = 600.0  # seconds at most
    jitter: bool = True

    def allows(self, attempt: int) -> bool:
        """Say whether there may be another attempt after this one (the first is 1)."""
        return self.max_retries is None or attempt <= self.max_retries

    def delay_after(self, attempt: int) -> float:
        """Return how many seconds to wait after this attempt.

        >>> RetryPolicy(jitter=False).delay_after(4)
        8.0
        """
        if self.delay is not None:
            return self.delay
        # 2.0 ** 1024 overflows; no bound worth having is reached that late.
        bound = min(self.backoff * 2.0 ** min(attempt - 1, 1000), self.backoff_max)
        return bound * random.uniform(0.5, 1.0) if self.jitter else bound  # noqa: S311 - not a secret
