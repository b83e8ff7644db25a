"""How messages are stored as values in Redis: three letters that the scripts read, then MessagePack that they do not.

    lane (p, c), priority (0 to 9), l or o (`acks_late`: at least once, at most once), then the message
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celeriac.model.gate import Duration, reader
from celeriac.model.message import COROUTINE, HIGHEST_PRIORITY, PLAIN, Message
from celeriac.model.message import decode as _decode
from celeriac.model.message import encode as _encode
from celeriac.ports.operations import UNREADABLE_WORKER, WorkerInfo, unreadable

__all__ = ["LANE_LETTERS", "blob", "decode", "due", "publications", "shown", "worker_of"]

LANE_LETTERS = {PLAIN: "p", COROUTINE: "c"}
PUBLISH_BATCH = 500  # messages per script call: Redis serves no other client meanwhile

_CODES = {
    (lane, priority, late): f"{letter}{priority}{'l' if late else 'o'}".encode()
    for lane, letter in LANE_LETTERS.items()
    for priority in range(HIGHEST_PRIORITY + 1)
    for late in (True, False)
}

_info: Callable[[bytes | memoryview], tuple[float, WorkerInfo]] = reader(
    tuple[Duration, WorkerInfo], "the info of a worker", json=True
)


def blob(message: Message) -> bytes:
    """Encode a message."""
    return _CODES[message.lane, message.priority, message.acks_late] + _encode(message)


def decode(blob: bytes) -> Message:
    """Decode a message. Raises `ValueError`."""
    message: Message = _decode(memoryview(blob)[3:])
    return message


def shown(blob: bytes, queue: str, id: str | None = None) -> Message:
    """Decode a message for display; return a placeholder if it is unreadable."""
    try:
        return decode(blob)
    except ValueError:
        return unreadable(blob[3:], queue, id=id).message


def worker_of(info: bytes) -> tuple[float, WorkerInfo]:
    """Decode the length of a worker's lease (seconds) and its info; for display, so that unreadable ones are shown."""
    try:
        return _info(info)
    except ValueError:
        return 0.0, UNREADABLE_WORKER


def due(message: Message) -> str:
    """Return when a message becomes due, as the scripts take it: empty for at once."""
    return "" if message.due_at is None else repr(message.due_at)


def publications(messages: Sequence[Message], moment: str) -> Iterable[tuple[Any, ...]]:
    """Yield the arguments of the script `publish` for each batch; all messages of a batch have one queue."""
    queues: dict[str, list[Message]] = {}
    for message in messages:
        queues.setdefault(message.queue, []).append(message)
    for queue, of_queue in queues.items():
        for start in range(0, len(of_queue), PUBLISH_BATCH):
            batch = of_queue[start : start + PUBLISH_BATCH]
            fields = [part for message in batch for part in (message.id, blob(message), due(message))]
            yield (queue, moment, *fields)
