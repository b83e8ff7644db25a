"""The banner of a worker or a scheduler that is ready: text, or one JSON object, as its log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from celeriac.cli.log import stderr_handler
from celeriac.logs import JSONFormatter

__all__ = ["show_banner"]


def show_banner(ready: str, facts: Mapping[str, str], formatter: logging.Formatter | None, logger: str) -> None:
    """Print to stderr that something is ready, and facts about it."""
    written: dict[str, Any] = {"msg": "\n".join([ready, *[f"  {name:<10} {fact}" for name, fact in facts.items()]])}
    handler = stderr_handler()  # it never blocks: tasks may already have filled the pipe
    if isinstance(formatter, JSONFormatter):
        handler.setFormatter(formatter)
        written = {"name": logger, "levelname": "INFO", "msg": ready, **facts}
    handler.emit(logging.makeLogRecord(written))
