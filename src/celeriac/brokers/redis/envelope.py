"""How messages are stored as values in Redis: three letters that the scripts read, then MessagePack that they do not.

    lane (p, c), priority (0 to 9), l or o (`acks_late`: at least once, at most once), then the message
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from celeriac.model.message import COROUTINE, HIGHEST_PRIORITY, PLAIN, Message
from celeriac.model.message import decode as _decode
from celeriac.model.message import encode as _encode
from celeriac.ports.operations import unreadable

__all__ = ["LANE_LETTERS", "blob", "decode", "due", "due_again", "publications", "shown"]

LANE_LETTERS = {PLAIN: "p", COROUTINE: "c"}
PUBLISH_BATCH = 500  # messages per script call: Redis serves no other client meanwhile

_CODES = {
    (lane, priority, late): f"{letter}{priority}{'l' if late else 'o'}".encode()
    for lane, letter in LANE_LETTERS.items()
    for priority in range(HIGHEST_PRIORITY + 1)
    for late in (True, False)
}


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
