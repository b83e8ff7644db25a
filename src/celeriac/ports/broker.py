"""The broker's port: takes messages from producers and delivers them to workers.

Producers call `publish` (or `apublish`). A worker opens a `Lease`, receives and settles messages through it, and
renews it by one heartbeat for all its deliveries. Deliveries that a worker has not settled when its lease ends go to
other workers. Front ends use a second port, `Operations` (`queues`, `peek`, `purge` …).

Every method that waits is cancel-safe: when cancelled, it has done all of its work or none of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from celeriac.errors import BrokerError, ImproperlyConfigured
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability, Port
from celeriac.ports.backend import Backend
from celeriac.ports.complete import complete, sleep
from celeriac.ports.operations import Operations, WorkerInfo
from celeriac.ports.workflows import Advance

if TYPE_CHECKING:
    from celeriac.ports.delays import DelayStore

__all__ = [
    "MISSED",
    "Action",
    "Broker",
    "Claim",
    "Delivery",
    "Lease",
    "Settlement",
    "Slots",
]

Result = TypeVar("Result")

Slots = Mapping[str, int]
"""How many messages a worker can start now, by lane."""


class _Missed(bytes):
    """Bytes that no payload is: compare with `is`."""


MISSED: Final[bytes] = _Missed()
"""What `listen` yields when payloads may have been missed, because its connection was lost."""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message that a worker holds. The token proves that it does: settling with a stale token does nothing."""

    message: Message
    token: str
    deliveries: int = 1  # how often it was delivered and not returned, including this time
    revoked: bool = False
    lost: bool = False  # taken over from a worker that died holding it; it must not be run again
    again: bool = False  # it may have been run, or sent, before; the broker cannot tell


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What somebody says of a delivery: its token, and the queue and the id of its message."""

    token: str
    queue: str
    id: str


class Action(StrEnum):
    """What happens to the message when an attempt is over."""

    ACKNOWLEDGE = "acknowledge"  # it is deleted
    RETURN = "return"  # it goes back to its queue, as `Settlement.message`, with `Settlement.deliveries`
    BURY = "bury"  # it becomes a dead letter, with `Settlement.reason`


class Settlement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is done about an outcome: store it, publish the follow-ups, apply the action. All of it, or nothing."""

    delivery: Delivery
    action: Action = Action.ACKNOWLEDGE
    outcome: Outcome | None = None  # to be stored; None if there is nothing to keep
    follow_ups: Sequence[Message] = ()  # to be published
    message: Message | None = None  # RETURN: the message as it goes back (`due_at` included)
    delay: float | None = None  # RETURN: seconds until it is due, by the server's clock if it has one; else: `due_at`
    deliveries: int = 0  # RETURN: the new count of deliveries
    reason: str = ""  # BURY
    value: bytes | None = None  # passed to the next steps of the workflow, whether or not the outcome keeps it
    leaves_pending: bool = False  # more follows from the end of this node than counting its join and `follow_ups`

    @property
    def ends_node(self) -> bool:
        """Whether this ends a node of a workflow: if that node has ended before, nothing follows."""
        return self.outcome is not None and self.outcome.place is not None and self.outcome.ready


class Lease(ABC):
    """A worker's claim on its deliveries. Made by `Broker.lease`."""

    name: str
    """The same for each object of this lease, in any process; no other lease has it."""

    @abstractmethod
    async def receive(self, queues: Sequence[str], slots: Slots, wait: float) -> list[Delivery]:
        """Take due messages: from each queue, higher priorities first, and older messages first within a priority.

        Never take more for a lane than its slots. Return as soon as there is a message, or an empty list after
        `wait` seconds. Raises `LeaseLost`.
        """

    @abstractmethod
    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Carry out each in one atomic step (if broker and backend are joined). False: its token was stale."""

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        """Do what `WorkflowStore.advance` does, and publish the messages in the same step.

        Called only if broker and backend are joined.
        """
        raise BrokerError(f"{type(self).__name__} stores no outcomes and so cannot advance workflows.")

    @abstractmethod
    async def renew(self) -> None:
        """Renew the claim on all deliveries. Raises `LeaseLost` if the lease expired and was swept."""

    @abstractmethod
    async def sweep(self) -> list[Delivery]:
        """Return the messages of dead workers to their queues; take over those that must not be run again.

        Messages with `acks_late=False`, and messages delivered `max_deliveries` times, are taken over: they are
        returned with `Delivery.lost`, for this worker to settle. Expired data is deleted. Every worker may sweep at
        any time. Without `Ability.CLOCK_LEASES` the broker returns messages by itself, and `receive` takes over.
        """

    async def until_sweep(self, pause: float) -> None:
        """Return when it is time to sweep again: after a pause (seconds), or when the broker knows of something.

        Without news it returns all the same, some time later. Raises `BrokerError`.
        """
        await sleep(pause)

    @abstractmethod
    async def end(self) -> None:
        """End the lease. Messages that it still holds return to their queues at once; this delivery is not counted.

        Messages that were taken over (`Delivery.lost`) do not return: the next sweep of any worker takes them over.
        """

    # Of leases that other processes use, too

    async def held(self, claims: Sequence[Claim]) -> dict[str, Delivery]:
        """Return, by token, the deliveries of those claims that are true: this lease holds them, under this token."""
        raise BrokerError(f"{type(self).__name__} is known to the process alone that opened it.")

    def leave(self) -> None:  # noqa: B027 - most have nothing to do
        """Stop using the lease in this process. It stands until it expires: another process may renew it."""


class Broker(Port, ABC):
    """Holds messages."""

    lacks = frozenset({Ability.JOIN_OUTCOMES})

    @property
    def knows_ids(self) -> bool:
        """Whether messages are found by their ids."""
        return self.can(Ability.KNOW_IDS)

    @abstractmethod
    def publish(self, messages: Sequence[Message]) -> None:
        """Return when the broker has all the messages. Raises `BrokerUnavailable` within the publish time-out.

        A message whose id the broker already holds is not stored again, so publishing may be repeated. Without
        `Ability.KNOW_IDS`, it is stored twice.
        """

    @abstractmethod
    async def apublish(self, messages: Sequence[Message], again: bool = False) -> None:
        """Coroutine version of `publish`. With `again`, the messages may have been published before, and have ended.

        Their deliveries say so (`Delivery.again` or `Message.again`), unless the broker knows that they have not ended.
        """

    @abstractmethod
    async def lease(self, worker: WorkerInfo, seconds: float, max_deliveries: int) -> Lease:
        """Open a lease for a worker."""

    def adopt(self, token: str, seconds: float) -> Lease | None:
        """Return the lease that a token was given under, to `renew` and to `settle` what another process received.

        Nothing else may be called but `held`. `seconds` is the length of the lease. None if it is no token of this
        broker's, or without `Ability.CLOCK_LEASES`: a lease is a connection of one process then.
        """
        return None

    def joins(self, backend: Backend) -> bool:
        """Return whether `Lease.settle` also stores outcomes in this backend, in the same atomic step."""
        return False

    def keep_delays_in(self, store: Callable[[], DelayStore], mode: str) -> None:
        """Keep messages that wait in a store, which the function opens: as the setting `broker_delays` says (`mode`).

        It is called once, before all else. The function raises `NotSupported` if there is no such store.
        """
        if mode == "store":
            raise ImproperlyConfigured(f"{self!r} holds delayed messages itself, and cannot keep them in the result "
                                       "backend (`broker_delays = 'store'`): leave that setting out.")  # fmt: skip

    @abstractmethod
    async def revoke(self, ids: Sequence[str], until: float) -> None:
        """Mark all deliveries of these messages as `revoked` until the instant `until`.

        Scheduled messages become due at once, so that a worker settles them soon.
        """

    @abstractmethod
    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        """Send payloads to the current listeners of a channel."""

    @abstractmethod
    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        """Start listening on a channel; return an iterator of the payloads sent from then on. `aclose` ends it.

        After a lost connection it listens again, and yields `MISSED`. Raises `BrokerUnavailable`.
        """

    @abstractmethod
    def operations(self) -> Operations:
        """Return the port for front ends."""

    def complete(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run one of this broker's coroutines from synchronous code; return its result."""
        return complete(work)

    @abstractmethod
    def close(self) -> None:
        """Close all connections; a later call opens them again."""
