"""Notices: a worker tells calling processes through the broker that outcomes of their tasks were stored.

Result backends that cannot notify other processes (those without `Ability.NOTIFY`) need them. Each calling process has
one channel, which the headers of its messages name (`Message.reply_to`). A notice is a list of task ids: the caller
looks into the backend. Nothing depends on notices, since callers poll as well; see docs/decisions/0037-notices.md.

Named by `message_template.py`, sent by `app/notifier.py`, received by `app/notices.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import msgspec

from celeriac.model.gate import Name, reader
from celeriac.model.message import new_id

__all__ = ["MOST_IDS", "encode_notice", "is_channel", "own_channel", "read_notice"]

CHANNELS: Final = "ended."
"""How the names of channels for notices begin: a message must not make workers send to other channels."""

MOST_IDS: Final = 1000  # in one notice
LARGEST: Final = 1 << 21  # bytes; ids that callers choose may be long

encode_notice: Callable[[list[str]], bytes] = msgspec.msgpack.Encoder().encode
"""Return a notice as bytes (msgpack). An empty one stands for all ids: it makes every caller look."""

read_notice: Callable[[bytes | memoryview], list[Name]] = reader(list[Name], "a notice", largest=LARGEST)
"""Return the ids in a notice. Raises `Unreadable`, a `ValueError`."""

_own: dict[str, str] = {}


def own_channel() -> str:
    """Return the channel of this process. The child of a fork has another one than its parent."""
    return _own.get("name") or _own.setdefault("name", f"{CHANNELS}{new_id()}")


def is_channel(name: str) -> bool:
    """Return whether a name is that of a channel for notices."""
    return name.startswith(CHANNELS)


os.register_at_fork(after_in_child=_own.clear)
