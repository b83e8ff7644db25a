"""Endings that tests on several brokers settle."""

from __future__ import annotations

from celeriac import states
from celeriac.errors import NotRegistered
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.worker.decide import Ending

__all__ = ["returned"]


def returned(how: str, delivery: Delivery, now: float, delay: float) -> Ending:
    """Return an ending after which the message goes back to its queue, and waits there for so many seconds."""
    retry = Outcome(id=delivery.message.id, task="t", state=states.RETRY, retry_delay=delay)
    requeue = Outcome(id=delivery.message.id, task="t", state=states.FAILURE, rejected=True, requeue=True)
    return {
        "unknown": Ending(delivery=delivery, unknown=NotRegistered("t")),
        "retry": Ending(delivery=delivery, outcome=retry),
        "requeue": Ending(delivery=delivery, outcome=requeue),
        "rate": Ending(delivery=delivery, given_back=True, due_at=now + delay),
    }[how]
