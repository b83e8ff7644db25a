"""How messages are stored as values in Redis: three letters that the scripts read, then MessagePack that they do not.

    lane (p, c), priority (0 to 9), l or o (`acks_late`: at least once, at most once), then the message
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celeriac.model.codec import Codec
from celeriac.model.gate import Duration, reader
from celeriac.model.message import COROUTINE, HIGHEST_PRIORITY, PLAIN, Message
from celeriac.ports.operations import UNREADABLE_WORKER, WorkerInfo, unreadable

__all__ = ["LANE_LETTERS", "PUBLISH_BATCH", "blob", "due", "due_again", "publications", "shown", "unpack", "worker_of"]

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


def blob(message: Message, codec: Codec) -> bytes:
    """Encode a message."""
    return _CODES[message.lane, message.priority, message.acks_late] + codec.encode(message)


def unpack(blob: bytes, queue: str | None, codec: Codec) -> Message:
    """Decode a message of a queue; None if it does not matter which. Raises `Unreadable`, a `ValueError`."""
    return codec.decode(blob[3:], queue)


def shown(blob: bytes, queue: str | None, codec: Codec, id: str | None = None) -> Message:
    """Decode a message for display; return a placeholder if it is unreadable."""
    try:
        return unpack(blob, queue, codec)
    except ValueError as error:
        return unreadable(blob[3:], queue or "", str(error), id=id).message


def worker_of(info: bytes, codec: Codec) -> tuple[float, WorkerInfo]:
    """Decode the length of a worker's lease (seconds) and its info; for display, so that unreadable ones are shown."""
    try:
        return _info(codec.open("worker", info))
    except ValueError:
        return 0.0, UNREADABLE_WORKER


def due(message: Message) -> str:
    """Return when a message that is published becomes due, as the scripts take it: empty for at once.

    A `+` and seconds are a duration by the server's clock; otherwise it is an instant.
    """
    if message.due_at is None:
        return ""
    return repr(message.due_at) if message.countdown is None else f"+{message.countdown!r}"


def due_again(message: Message, delay: float | None) -> str:
    """Return when a message that goes back to its queue becomes due: after a delay, or as it says."""
    if delay is not None:
        return f"+{delay!r}"
    return "" if message.due_at is None else repr(message.due_at)


def publications(messages: Sequence[Message], moment: str, codec: Codec) -> Iterable[tuple[Any, ...]]:
    """Yield the arguments of the script `publish` for each batch; all messages of a batch have one queue."""
    queues: dict[str, list[Message]] = {}
    for message in messages:
        queues.setdefault(message.queue, []).append(message)
    for queue, of_queue in queues.items():
        for start in range(0, len(of_queue), PUBLISH_BATCH):
            batch = of_queue[start : start + PUBLISH_BATCH]
            fields = [part for message in batch for part in (message.id, blob(message, codec), due(message))]
            yield (queue, moment, *fields)
