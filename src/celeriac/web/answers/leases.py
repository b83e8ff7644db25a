"""What the endpoints of leases answer remote workers."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from celeriac.web.answers.tasks import Failure

__all__ = ["Deliveries", "FailedTask", "Granted", "Heartbeat", "RemoteDelivery", "Settled", "SettledOne"]


class Granted(msgspec.Struct, kw_only=True):
    """A lease."""

    lease: str
    lease_seconds: float
    renew_seconds: float
    links: dict[str, str]


class FailedTask(msgspec.Struct, kw_only=True):
    """The task that an error callback is about."""

    id: str
    task: str
    attempt: int
    error: Failure
    traceback: str


class RemoteDelivery(msgspec.Struct, kw_only=True):
    """A task to run."""

    token: str
    id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    queue: str
    priority: int
    attempt: int
    max_retries: int | None
    deliveries: int
    sent_at: str | None
    expires_at: str | None
    time_limit: float | None
    soft_time_limit: float | None
    headers: dict[str, Any]
    parent_id: str | None
    root_id: str | None
    group_id: str | None
    failed: FailedTask | None


class Deliveries(msgspec.Struct, kw_only=True):
    """Tasks to run, and tokens that the worker holds no longer."""

    deliveries: list[RemoteDelivery]
    lost: list[str]


class Heartbeat(msgspec.Struct, kw_only=True):
    """What a worker has to know: by tokens, what to stop."""

    lost: Annotated[list[str], Meta(description="others run these now, or they were settled: stop them")]
    terminate: Annotated[list[str], Meta(description="stop these, and settle them as REVOKED")]
    overdue: Annotated[list[str], Meta(description="stop these, and settle them as TIMEOUT")]
    stop: Annotated[bool, Meta(description="finish what runs, and end")]


class SettledOne(msgspec.Struct, kw_only=True):
    """One answer to an ending."""

    token: str
    accepted: Annotated[bool, Meta(description="false: another worker has it, and nothing was written")]


class Settled(msgspec.Struct, kw_only=True):
    """The answers to endings, in their order."""

    settlements: list[SettledOne]
