"""What a callback sends when a task has ended."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from celeriac.web.answers.tasks import Failure

__all__ = ["CallbackData", "CallbackEvent"]


class CallbackData(msgspec.Struct, kw_only=True):
    """What a callback tells of a task: the result or the error only if the call asked for it."""

    id: str
    task: str
    state: Literal["SUCCESS", "FAILURE", "REVOKED"]
    result: Any = UNSET
    error: Failure | UnsetType | None = UNSET


class CallbackEvent(msgspec.Struct, kw_only=True):
    """The CloudEvents document that a callback sends."""

    specversion: Literal["1.0"]
    id: Annotated[str, Meta(description="the same in each attempt")]
    source: str
    type: Literal["celeriac.task.ended"]
    subject: Annotated[str, Meta(description="the id of the task")]
    time: str
    datacontenttype: Literal["application/json"]
    data: CallbackData
