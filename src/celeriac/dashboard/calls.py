"""The arguments of a call as text, for lists: JSON made on the server, masked, and cut."""

from __future__ import annotations

from typing import Any, Final

from celeriac.app.app import Celeriac
from celeriac.documents import call_of, to_json
from celeriac.model.masks import masked_arguments
from celeriac.model.message import Message

__all__ = ["call_text"]

LONGEST: Final = 160  # characters
LARGEST: Final = 65_536  # bytes of a body that is read for a list


def call_text(message: Message, app: Celeriac, longest: int = LONGEST) -> str:
    """Return the arguments of a message in one line: `1204, customer=7`. What names tell to be secret is `***`."""
    if len(message.body) > LARGEST:
        return f"({len(message.body):,} bytes)"
    call = call_of(message, app)
    if call is None:
        return f"({len(message.body):,} bytes of {message.content_type})"
    args, kwargs = call
    parts = [_text(value) for value in args] + [f"{name}={_text(value, name)}" for name, value in kwargs.items()]
    text = ", ".join(parts)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _text(value: Any, name: str = "") -> str:
    return to_json(masked_arguments(value, name)).decode(errors="replace")
