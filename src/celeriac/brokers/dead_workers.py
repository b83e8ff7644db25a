"""Logs which messages a dead worker has left behind. Brokers call it when they find that out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from celeriac.model.message import Message

__all__ = ["NAMED", "tell_received", "tell_returned"]

log = logging.getLogger("celeriac.brokers")

NAMED = 10  # messages that a line names


def tell_returned(worker: str, messages: Sequence[Message], number: int) -> None:
    """Log that so many messages of a worker return to their queues; the first of them are given."""
    if number:
        log.warning("The lease of the worker %s has expired: it has died, or was cut off. Its messages return to their "
                    "queues: %s", worker, _named(messages, number))  # fmt: skip


def tell_received(messages: Sequence[Message]) -> None:
    """Log that this worker has received messages which a worker held whose connection has ended."""
    log.warning("A worker that held messages has died, or was cut off. This worker has received them: %s",
                _named(messages, len(messages)))  # fmt: skip


def _named(messages: Sequence[Message], number: int) -> str:
    named = [f"{message.task}[{message.id}]" for message in messages[:NAMED]]
    return ", ".join(named) + (f" … and {number - len(named)} more" if number > len(named) else "")
