"""The signals of publishing, `before_task_publish` and `after_task_publish`: for each message, as Celery shows it.

`app.publish` calls these, where a receiver is connected. Receivers may add headers to a message, and nothing else.
"""

from __future__ import annotations

import os
import platform
from collections import UserDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from celeriac import signals
from celeriac.model.clock import aware
from celeriac.model.message import Message
from celeriac.model.options import check_call
from celeriac.model.serialization import decode_own

__all__ = ["send_after_publish", "send_before_publish"]


class _Headers(UserDict[str, Any]):
    """The headers of a message under Celery's names. More can be added; those of the message itself stay."""

    def __init__(self, message: Message, args: Any, kwargs: Any) -> None:
        super().__init__()
        fields = {
            "lang": "py",
            "task": message.task,
            "id": message.id,
            "shadow": None,
            "eta": _text(message.due_at),
            "expires": _text(message.expires_at),
            "group": message.group_id,
            "retries": message.attempt - 1,
            "timelimit": [message.time_limit, message.soft_time_limit],
            "root_id": message.root_id or message.id,
            "parent_id": message.parent_id,
            "argsrepr": repr(args),
            "kwargsrepr": repr(kwargs),
            "origin": f"{os.getpid()}@{platform.node()}",
            "ignore_result": message.ignore_result,
        }
        self.data = {**message.headers, **fields}
        self._fixed = frozenset(fields)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._fixed:
            raise TypeError(f"A receiver cannot change the header {name!r} of a message. Pass an option of the call.")
        self.data[name] = check_call({"headers": {name: value}})["headers"][name]

    def __delitem__(self, name: str) -> None:
        if name in self._fixed:
            raise TypeError(f"A receiver cannot remove the header {name!r} of a message.")
        del self.data[name]

    def own(self) -> dict[str, Any]:
        """Return the headers besides those that each message has."""
        return {name: value for name, value in self.data.items() if name not in self._fixed}


def send_before_publish(messages: Sequence[Message]) -> list[Message]:
    """Send `before_task_publish` for each message; return the messages with the headers that receivers have added."""
    sent = []
    for message in messages:
        body, headers = _shown(message)
        properties = {"correlation_id": message.id, "reply_to": message.reply_to, "priority": message.priority}
        signals.before_task_publish.send(
            message.task, body=body, exchange="", routing_key=message.queue, headers=headers,
            properties=MappingProxyType(properties), declare=(), retry_policy=MappingProxyType({}),
        )  # fmt: skip
        own = headers.own()
        sent.append(message if own == message.headers else replace(message, headers=own))
    return sent


def send_after_publish(messages: Sequence[Message]) -> None:
    """Send `after_task_publish` for each message."""
    for message in messages:
        body, headers = _shown(message)
        signals.after_task_publish.send(message.task, body=body, exchange="", routing_key=message.queue,
                                        headers=MappingProxyType(headers.data))  # fmt: skip


def _shown(message: Message) -> tuple[tuple[Any, Mapping[str, Any], Mapping[str, Any]], _Headers]:
    """Return the body and the headers of a message as in Celery's second protocol; the body cannot be changed."""
    args, kwargs = decode_own(message.content_type, message.body)
    linked = {"callbacks": message.link or None, "errbacks": message.link_error or None}
    return (tuple(args), MappingProxyType(kwargs), MappingProxyType(linked)), _Headers(message, tuple(args), kwargs)


def _text(instant: float | None) -> str | None:
    return aware(instant).isoformat() if instant is not None else None
