"""Warnings that one fault repeats without end, as for each of many records of another version."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

__all__ = ["RepeatedWarnings"]

EVERY_SECONDS: Final = 60.0


class RepeatedWarnings:
    """Writes warnings to a log: the first of a kind at once, later ones once a minute, with how many were left out."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._kinds: dict[str, tuple[float, int]] = {}  # when one was written (monotonic), and how many were not since

    def warn(self, kind: str, *arguments: Any) -> None:
        """Warn; `kind` is the text, with the places of its arguments."""
        now, (written_at, left_out) = time.monotonic(), self._kinds.get(kind, (float("-inf"), 0))
        if now < written_at + EVERY_SECONDS:
            self._kinds[kind] = (written_at, left_out + 1)
            return
        self._kinds[kind] = (now, 0)
        more = f" ({left_out:,} more like this since the last such line)" if left_out else ""
        self._log.warning(f"{kind}%s", *arguments, more)
