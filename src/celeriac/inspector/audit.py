"""What operators do, as events of the history: their kinds. Front ends write them, and list them as the audit."""

from __future__ import annotations

from typing import Final

__all__ = ["ACTION", "AUDITED", "BULK_ENDED", "BULK_PROGRESS", "BULK_STARTED", "BULK_STOP", "RETRIED"]

ACTION: Final = "action"  # a request of the HTTP API, or a command, that has changed something
RETRIED: Final = "task.retried"
BULK_STARTED: Final = "bulk.started"
BULK_PROGRESS: Final = "bulk.progress"
BULK_STOP: Final = "bulk.stop"
BULK_ENDED: Final = "bulk.ended"

AUDITED: Final = (ACTION, RETRIED, BULK_STARTED, BULK_STOP, BULK_ENDED)
"""The kinds that the audit lists."""
