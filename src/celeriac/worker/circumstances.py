"""What a worker knows of why a task does not run: its reply to the control command `explain`.

`inspector/facts.py` asks all workers at once, and `inspector/explaining.py` reasons about their replies.
"""

from __future__ import annotations

from typing import Any, Final

from celeriac.app.app import Celeriac
from celeriac.errors import closest
from celeriac.worker.pools.pool import Active, Pool
from celeriac.worker.receiver import Receiver

__all__ = ["circumstances"]

MOST_TOLD: Final = 10  # attempts that run


def circumstances(app: Celeriac, receiver: Receiver, pool: Pool, id: str, name: str) -> dict[str, Any]:
    """Return whether this worker could run the task `id`, called `name`, or does, and what its slots are taken by."""
    known, active = app.tasks.get(name), pool.active()
    own = next((one for one in active if one.delivery.message.id == id), None)
    running = sorted((one for one in active if one.started_at is not None), key=lambda one: one.started_at or 0.0)
    return {
        "queues": receiver.queues,
        "registered": known is not None or name in app.builtin_tasks,
        "nearest": closest(name, app.tasks) if known is None else None,
        "lane": None if known is None else known.lane,
        "rate": None if known is None else receiver.rates.get(name, known.rate),
        "capacity": pool.capacity(),
        "free": pool.free(),
        "own": None if own is None else _told(own),
        "running": [_told(one) for one in running[:MOST_TOLD]],
    }


def _told(active: Active) -> dict[str, Any]:
    message = active.delivery.message
    return {
        "id": message.id,
        "task": message.task,
        "queue": message.queue,
        "lane": message.lane,
        "attempt": message.attempt,
        "started_at": active.started_at,
        "pid": active.pid,
        "soft_time_limit": message.soft_time_limit,
        "time_limit": message.time_limit,
    }
