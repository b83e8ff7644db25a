"""Reads from the history what a mail shows besides counts: the latest failure, its call, and where it happened.

The task `celeriac.mail` calls this in a child. What was stored is data of strangers: it is masked, cut, and may be
missing.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from celeriac import states
from celeriac.errors import BackendError, BrokerError, DecodeError
from celeriac.model.filters import Filter
from celeriac.model.history import Attempt
from celeriac.model.masks import masked, masked_arguments
from celeriac.model.message import Message
from celeriac.model.message import decode as decode_message
from celeriac.model.serialization import decode
from celeriac.ports.history import History
from celeriac.tasks.protocols import App

__all__ = ["Details", "read_details", "shown_call"]

LATEST = 100  # failures that are looked at
MOST_CHARACTERS = 500  # of one argument
MOST_ARGUMENTS = 30


class Details(msgspec.Struct, kw_only=True):
    """What the history tells about the failures of a mail."""

    latest: Attempt | None = None
    call: str = ""  # of the latest, with masked arguments
    workers: dict[str, int] = {}  # how many of those that were looked at failed where
    looked_at: int = 0
    missing: str = ""  # why there is nothing


async def read_details(app: App, history: History | None, signature: str, since: float) -> Details:
    """Return what is known of the failures with a signature since then. An outage of the history is no error."""
    if history is None:
        return Details(missing="This worker has no history.")
    wanted = Filter(signatures=(signature,), states=(states.FAILURE,))
    try:
        page = await history.search(wanted, LATEST)
    except (BrokerError, BackendError) as error:
        return Details(missing=f"The history could not be read: {masked(str(error))}")
    recent = [attempt for attempt in page.rows if attempt.done_at >= since]
    if not page.rows:
        return Details(missing="The history has kept none of these failures in full.")
    latest = page.rows[0]
    workers = Counter(attempt.worker or "?" for attempt in recent)
    return Details(latest=latest, call=_call(app, latest), workers=dict(workers.most_common(10)), looked_at=len(recent))


def _call(app: App, attempt: Attempt) -> str:
    if attempt.kept is None:
        return ""
    try:
        message = decode_message(attempt.kept)
        return shown_call(app, message)
    except (DecodeError, TypeError, ValueError):
        return "(its arguments cannot be read here)"


def shown_call(app: App, message: Message) -> str:
    """Return a message's call as text, with masked arguments: `charge(order=7, card='***')`.

    Raises `DecodeError`, `TypeError` or `ValueError` for arguments that cannot be read here.
    """
    args, kwargs = decode(message.content_type, message.body, app.conf.accept_content)
    names = _names(app, message.task)
    parts = [_argument(name, value) for name, value in zip_longest(names[: len(args)], args, fillvalue="")]
    parts += [_argument(str(name), value) for name, value in kwargs.items()]
    if len(parts) > MOST_ARGUMENTS:
        parts[MOST_ARGUMENTS:] = [f"… {len(parts) - MOST_ARGUMENTS} more"]
    return f"{message.task.rpartition('.')[2]}({', '.join(parts)})"


def _argument(name: str, value: Any) -> str:
    shown = repr(masked_arguments(value, name))
    if len(shown) > MOST_CHARACTERS:
        shown = f"{shown[:MOST_CHARACTERS]}…"
    return f"{name}={shown}" if name else shown


def _names(app: App, task: str) -> Sequence[str]:
    """Return the names of a task's positional parameters, if it is known here."""
    known: Mapping[str, Any] = app.tasks
    if task not in known:
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [one.name for one in inspect.signature(known[task].function).parameters.values() if one.kind in kinds]
    return parameters[1:] if known[task].bind else parameters
