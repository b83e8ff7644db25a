"""What remote workers send to the endpoints of leases."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from celeriac.web.shapes import Given, Name, Seconds

__all__ = ["Ended", "Enter", "Holds", "ReceiveQuery", "RemoteError", "Settle"]

Short = Annotated[str, Meta(max_length=200)]
Token = Annotated[str, Meta(min_length=1, max_length=8000)]
Tokens = Annotated[list[Token], Meta(max_length=1000)]


class Enter(Given):
    """A worker that enters."""

    name: Annotated[str, Meta(min_length=1, max_length=200, description="as lists of workers show it")]
    queues: Annotated[list[Name], Meta(min_length=1, max_length=100, description="to receive from")]
    tasks: Annotated[list[Name], Meta(min_length=1, max_length=200, description="it can run: names, or patterns")]
    lease_seconds: Annotated[float, Meta(ge=1.0, le=3600.0, description="how long it may be silent")] | None = None
    host: Short = ""
    pid: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class Holds(Given):
    """What the worker holds: the tokens of all that it has received, but for those whose settlement was answered."""

    holds: Tokens


class ReceiveQuery(Given):
    """How many deliveries, and how long to wait for the first."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 1
    wait: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0


class RemoteError(Given):
    """What went wrong."""

    type: Annotated[str, Meta(min_length=1, max_length=200, description="the class of the exception")] = "Error"
    message: Annotated[str, Meta(max_length=100_000)] = ""
    traceback: Annotated[str, Meta(max_length=1_000_000)] = ""
    module: Annotated[str, Meta(min_length=1, max_length=200)] = "builtins"


class Ended(Given):
    """How an attempt ended, or how far it is."""

    token: Token
    state: Literal["SUCCESS", "FAILURE", "RETRY", "IGNORED", "REJECTED", "REVOKED", "TIMEOUT", "LOST", "RETURN",
                   "PROGRESS"]  # fmt: skip
    result: Annotated[Any, Meta(description="of SUCCESS: the value; of PROGRESS: what is shown")] = None
    error: Annotated[RemoteError | None, Meta(description="of FAILURE, RETRY, REJECTED, LOST")] = None
    runtime: Annotated[Seconds, Meta(description="how long it ran")] = 0.0
    delay: Annotated[Seconds | None, Meta(description="of RETRY and RETURN: not before; RETRY has its own")] = None
    requeue: Annotated[bool, Meta(description="of REJECTED: it runs again, and is no dead letter")] = False


class Settle(Given):
    """Endings of attempts."""

    settlements: Annotated[list[Ended], Meta(min_length=1, max_length=1000)]
