"""Bulk actions: what one would act on, and how far it is."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = ["BulkCount", "BulkState", "CanaryState"]


class BulkCount(msgspec.Struct, kw_only=True):
    """What a bulk action would act on."""

    matched: int
    of: Literal["exact", "at least"]
    before: Annotated[str, Meta(description="with this, the action leaves alone what has come since")]


class CanaryState(msgspec.Struct, kw_only=True):
    """How those do that went first."""

    count: int
    ended: int
    failed: int


class BulkState(msgspec.Struct, kw_only=True):
    """How far a bulk action is."""

    bulk: str
    action: str
    filter: str | None
    before: str
    by: str
    state: Literal["counting", "canary", "running", "done", "stopped", "failed", "interrupted"]
    matched: Annotated[int | None, Meta(description="null until they are counted")]
    more: Annotated[bool, Meta(description="there are more than one action takes: repeat it")]
    done: int
    refused: int
    reasons: Annotated[dict[str, int], Meta(description="why some were refused")]
    why: Annotated[str | None, Meta(description="it was stopped, has failed or was interrupted")]
    canary: Annotated[CanaryState | None, Meta(description="null if none go first")]
    started_at: str | None
    updated_at: str | None
