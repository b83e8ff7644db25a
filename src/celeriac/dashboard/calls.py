"""Arguments and results as text: JSON made here, so that no number loses digits; secrets masked by their names."""

from __future__ import annotations

import inspect
from typing import Any, Final, NamedTuple

import msgspec

from celeriac.app.app import Celeriac
from celeriac.documents import call_of, to_json
from celeriac.model.masks import masked_arguments
from celeriac.model.message import Message
from celeriac.model.outcome import Call
from celeriac.ports.operations import UNREADABLE

__all__ = ["Shown", "arguments_of", "call_text", "shown"]

FOLDED: Final = 3_000  # characters, above which a value is folded
LONGEST: Final = 160  # characters of a call in one line
LARGEST: Final = 65_536  # bytes of a body that is read for a list
MOST: Final = 200_000  # characters that a page shows of a value


class Shown(NamedTuple):
    """A value as text."""

    text: str
    is_long: bool
    left_out: int  # characters


def shown(value: Any) -> Shown:
    """Return a value as indented JSON. What JSON does not support is written as text."""
    text = msgspec.json.format(to_json(value), indent=2).decode()
    return Shown(text[:MOST], len(text) > FOLDED, max(0, len(text) - MOST))


def arguments_of(message: Message | Call, task: str, app: Celeriac) -> list[tuple[str, Any]] | None:
    """Return the arguments of a call with their names, as far as the task is known here; None if they are unreadable.

    Values whose names tell that they are secret are masked.
    """
    call = None if task == UNREADABLE else call_of(message, app)
    if call is None:
        return None
    args, kwargs = call
    known = app.tasks.get(task)
    names = list(known.arguments.signature.parameters.values()) if known is not None else []
    positional = [one.name for one in names if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    rest = next((f"*{one.name}" for one in names if one.kind is inspect.Parameter.VAR_POSITIONAL), "")
    found = [(positional[place] if place < len(positional) else rest, value) for place, value in enumerate(args)]
    found += [(str(name), value) for name, value in kwargs.items()]
    return [(name, masked_arguments(value, name)) for name, value in found]


def call_text(message: Message, app: Celeriac, longest: int = LONGEST) -> str:
    """Return the arguments of a message in one line: `order=1204, customer=7`. Secrets are `***`."""
    if len(message.body) > LARGEST:
        return f"({len(message.body):,} bytes)"
    arguments = arguments_of(message, message.task, app)
    if arguments is None:
        return f"({len(message.body):,} bytes of {message.content_type})"
    parts = [f"{name}={_json(value)}" if name else _json(value) for name, value in arguments]
    text = ", ".join(parts)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _json(value: Any) -> str:
    return to_json(value).decode(errors="replace")
