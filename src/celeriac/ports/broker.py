"""The broker's port: what holds messages must be able to do.

Producers call `publish` (or `apublish`). A worker takes a `Lease`, receives and settles through it, and
renews it by one heartbeat for all that it holds. What a worker does not settle before its lease ends, goes to
others. Looking and operating (`queues`, `peek`, `purge` …) is the second port, `Operations`, for the windows alone.

Every method that waits is cancel-safe: cancelled, it has either done its work or none of it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from enum import StrEnum
from typing import Any, TypeVar

import msgspec

from celeriac.errors import BrokerError
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.backend import Backend
from celeriac.ports.operations import Operations, WorkerInfo
from celeriac.ports.workflows import Advance

__all__ = [
    "Ability",
    "Action",
    "Broker",
    "Delivery",
    "Lease",
    "Settlement",
    "Slots",
]

Result = TypeVar("Result")

Slots = Mapping[str, int]
"""How many messages a worker can start now, by lane."""


class Ability(StrEnum):
    """What most brokers can, and some cannot (`Broker.lacks`)."""

    KNOW_IDS = "know ids"  # publishing an id twice is publishing it once; a message is found by its id
    SEE_SCHEDULED = "see scheduled"  # what waits for its time is listed, counted, purged; due at once when revoked
    CLOCK_LEASES = "clock leases"  # a lease ends by the clock when it is not renewed; else with its connection


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message that a worker holds. The token proves it: settling with a stale one does nothing."""

    message: Message
    token: str
    deliveries: int = 1  # how often it was handed out without coming back; this time included
    revoked: bool = False
    lost: bool = False  # taken over from a worker that died holding it, and not to be run again
    again: bool = False  # it may have been run, or sent, before, and the broker cannot tell


class Action(StrEnum):
    """What becomes of the message when an attempt is over."""

    ACKNOWLEDGE = "acknowledge"  # it is done with
    RETURN = "return"  # back to its queue, as `Settlement.message`, with `Settlement.deliveries`
    BURY = "bury"  # aside as a dead letter, with `Settlement.reason`


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is done about an outcome: store it, send what follows, and then the action. All of it, or nothing."""

    delivery: Delivery
    action: Action = Action.ACKNOWLEDGE
    outcome: Outcome | None = None  # to be stored; None where there is nothing to keep
    follow_ups: Sequence[Message] = ()  # to be published
    message: Message | None = None  # RETURN: the message as it goes back (its `due_at` counts)
    deliveries: int = 0  # RETURN: what its count goes back to
    reason: str = ""  # BURY
    value: bytes | None = None  # what steps that come next in a workflow are given, whether it is kept or not
    leaves_pending: bool = False  # the end of this node causes more than a count of its join and `follow_ups`

    @property
    def ends_node(self) -> bool:
        """Whether this is the end of a workflow's node: nothing follows from it, if that has ended before."""
        return self.outcome is not None and self.outcome.place is not None and self.outcome.ready


class Lease(ABC):
    """A worker's claim on its deliveries. Made by `Broker.lease`."""

    @abstractmethod
    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        """Take messages that are due: of each queue, higher priorities first and older ones first among equals.

        Never more of a lane than its slots. Returns as soon as there is one, or empty after `wait`
        seconds. Raises `LeaseLost`.
        """

    @abstractmethod
    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Settle each in one atomic step (where broker and backend are joined). False: its token was stale."""

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        """Do as `Backend.advance`, and publish the messages in the same step. Called where the two are joined alone."""
        raise BrokerError(f"{type(self).__name__} stores no outcomes, so that it cannot advance workflows.")

    @abstractmethod
    async def renew(self) -> None:
        """Renew the claim on all deliveries. Raises `LeaseLost` if it had run out and was swept."""

    @abstractmethod
    async def sweep(self) -> list[Delivery]:
        """Give back what dead workers held; take over what must not be run again, for this worker to settle.

        Taken over (`Delivery.lost`) are messages with `acks_late=False`, and those handed out `max_deliveries`
        times. Also throws away what has expired. Safe to be called by every worker, at any time. Where leases end with
        their connection, the broker itself gives back, and what is taken over has come in the way of `receive`.
        """

    @abstractmethod
    async def end(self) -> None:
        """End the lease. What is still held goes back to its queue at once, uncounted.

        What was taken over (`Delivery.lost`) does not: the next sweep, whosever it is, takes it over again.
        """


class Broker(ABC):
    """Holds messages."""

    lacks: frozenset[Ability] = frozenset()
    """What this broker cannot do. Operations that are lacking raise `NotSupported`."""

    @property
    def knows_ids(self) -> bool:
        """Whether it can say which messages it holds, by their ids."""
        return Ability.KNOW_IDS not in self.lacks

    @abstractmethod
    def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker has all the messages; raise `BrokerUnavailable` within the publish time-out.

        A message whose id it already holds is not stored again, so that publishing may be repeated (but see
        `Ability.KNOW_IDS`).
        """

    @abstractmethod
    async def apublish(self, messages: Sequence[Message], again: bool = False) -> None:
        """Do as `publish`, for coroutines. With `again`, they may have been published before."""

    @abstractmethod
    async def lease(self, worker: WorkerInfo, seconds: float, max_deliveries: int) -> Lease:
        """Open a lease for a worker."""

    def joins(self, backend: Backend) -> bool:
        """Say whether `Lease.settle` also stores outcomes in this backend, in the same atomic step."""
        return False

    @abstractmethod
    async def revoke(self, ids: Sequence[str], until: float) -> None:
        """Make the deliveries of these messages `revoked`, now or whenever they come before `until`.

        Those waiting become due at once, so that a worker settles them soon.
        """

    @abstractmethod
    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        """Send to whoever listens on a channel now."""

    @abstractmethod
    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        """Begin to listen; return what yields whatever is sent on a channel from then on, until closed (`aclose`)."""

    @abstractmethod
    def operations(self) -> Operations:
        """Return the port for looking and operating."""

    def complete(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Drive one of this broker's coroutines from synchronous code."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work)
        with ThreadPoolExecutor(1) as thread:  # this thread's loop is busy with whoever calls
            return thread.submit(copy_context().run, asyncio.run, work).result()

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; a later call opens them again."""
