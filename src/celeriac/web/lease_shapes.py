"""What remote workers send to the endpoints of leases, and what these answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from celeriac.web.answers import Failure

__all__ = [
    "Deliveries",
    "Ended",
    "Enter",
    "FailedTask",
    "Granted",
    "Heartbeat",
    "Holds",
    "ReceiveQuery",
    "RemoteDelivery",
    "RemoteError",
    "Settle",
    "Settled",
    "SettledOne",
]

Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Seconds = Annotated[float, Meta(ge=0.0, le=3e10)]
Short = Annotated[str, Meta(max_length=200)]
Token = Annotated[str, Meta(min_length=1, max_length=8000)]
Tokens = Annotated[list[Token], Meta(max_length=1000)]


class _Given(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a client sends: a field that there is not is an error."""


class Enter(_Given):
    """A worker that enters."""

    name: Annotated[str, Meta(min_length=1, max_length=200, description="as lists of workers show it")]
    queues: Annotated[list[Name], Meta(min_length=1, max_length=100, description="to receive from")]
    tasks: Annotated[list[Name], Meta(min_length=1, max_length=200, description="it can run: names, or patterns")]
    lease_seconds: Annotated[float, Meta(ge=1.0, le=3600.0, description="how long it may be silent")] | None = None
    host: Short = ""
    pid: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class Holds(_Given):
    """What the worker holds: the tokens of all that it has received, but for those whose settlement was answered."""

    holds: Tokens


class ReceiveQuery(_Given):
    """How many deliveries, and how long to wait for the first."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 1
    wait: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0


class RemoteError(_Given):
    """What went wrong."""

    type: Annotated[str, Meta(min_length=1, max_length=200, description="the class of the exception")] = "Error"
    message: Annotated[str, Meta(max_length=100_000)] = ""
    traceback: Annotated[str, Meta(max_length=1_000_000)] = ""
    module: Annotated[str, Meta(min_length=1, max_length=200)] = "builtins"


class Ended(_Given):
    """How an attempt ended, or how far it is."""

    token: Token
    state: Literal["SUCCESS", "FAILURE", "RETRY", "IGNORED", "REJECTED", "REVOKED", "TIMEOUT", "LOST", "RETURN",
                   "PROGRESS"]  # fmt: skip
    result: Annotated[Any, Meta(description="of SUCCESS: the value; of PROGRESS: what is shown")] = None
    error: Annotated[RemoteError | None, Meta(description="of FAILURE, RETRY, REJECTED, LOST")] = None
    runtime: Annotated[Seconds, Meta(description="how long it ran")] = 0.0
    delay: Annotated[Seconds | None, Meta(description="of RETRY and RETURN: not before; RETRY has its own")] = None
    requeue: Annotated[bool, Meta(description="of REJECTED: it runs again, and is no dead letter")] = False


class Settle(_Given):
    """Endings of attempts."""

    settlements: Annotated[list[Ended], Meta(min_length=1, max_length=1000)]


# --- Answers ------------------------------------------------------------------------------------------


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
