"""Warnings that one fault repeats without end, as for each of many records of another version."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

__all__ = ["RepeatedWarnings"]

MOST: Final = 10  # warnings of one kind …
EACH_SECONDS: Final = 60.0  # … in so many seconds


class RepeatedWarnings:
    """Writes warnings to a log: some of each kind in a minute, and with the next how many were left out."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._kinds: dict[str, _Kind] = {}

    def warn(self, kind: str, *arguments: Any) -> None:
        """Warn; `kind` is the text, with the places of its arguments."""
        known = self._kinds.setdefault(kind, _Kind())
        now = time.monotonic()
        if now >= known.began_at + EACH_SECONDS:
            known.began_at, known.written = now, 0
        if known.written == MOST:
            known.left_out += 1
            return
        more = f" ({known.left_out:,} more like this since the last such line)" if known.left_out else ""
        known.written, known.left_out = known.written + 1, 0
        self._log.warning(f"{kind}%s", *arguments, more)


class _Kind:
    """What was written of one kind."""

    def __init__(self) -> None:
        self.began_at = float("-inf")  # monotonic
        self.written = 0  # since then
        self.left_out = 0  # since the last one that was written
