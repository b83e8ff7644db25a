"""The port of a protocol: what a queue server must be able to do, in terms of addresses, tags and bytes.

`Transport` is made with its broker and shared by its producers, leases and operations. Its *procedures* are
generators, so that sending is written once for threads and event loops: a procedure yields requests of the protocol's
own, and `do` (blocking) or `ado` (for coroutines) sends them and passes the answers back in.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

from celeriac.brokers.queue_server.envelope import Envelope, Parcel
from celeriac.brokers.queue_server.topology import Line, Topology
from celeriac.errors import AccessRefused, BrokerError, NotSupported
from celeriac.model.codec import Codec

__all__ = ["Holds", "Inspection", "Keep", "NotCounted", "Procedure", "Pushed", "QueueMissing", "Subscription", "Taken",
           "Transport", "Unsent", "WorkerConnection", "unsent"]  # fmt: skip

Result = TypeVar("Result")
Procedure = Generator[Any, Any, Result]
Keep = Callable[[list[bytes]], list[bool]]  # says of each entry of the journal whether it stays


class NotCounted(NotSupported):
    """The server does not tell how many messages a queue holds."""

    def __init__(self, why: str, at_least: int) -> None:
        super().__init__(why)
        self.at_least = at_least


class QueueMissing(BrokerError):
    """The server has no queue of this name (any more)."""


class Holds(Enum):
    """Whether a server holds delayed messages, until they are due."""

    SAFELY = "safely"
    UNSAFELY = "unsafely"  # it may lose some, or keep them for ever: a store is better, if there is one
    NEVER = "never"  # they must be kept in a store


class Pushed(Protocol):
    """A message as the server delivers it. The protocol's own class: the base makes no copy of it."""

    @property
    def tag(self) -> int:
        """Its number on this connection; rises from message to message."""

    @property
    def consumer_tag(self) -> str:
        """The consumer that it was pushed to."""

    @property
    def redelivered(self) -> bool:
        """Whether the server has delivered it before."""

    @property
    def body(self) -> bytes:
        """An envelope, or a dead letter."""


class Unsent(NamedTuple):
    """The part of a batch that is still to be sent."""

    envelopes: Sequence[Envelope]
    parcels: Sequence[Parcel]
    doubtful: bool  # it may have been sent all the same
    address: str  # one that no message reached


def unsent(envelopes: Sequence[Envelope], parcels: Sequence[Parcel], left: Sequence[bool], doubtful: bool,
           address: str) -> Unsent:  # fmt: skip
    """Return the part of a batch that is left, as `left` says of its envelopes and then of its parcels."""
    split = len(envelopes)
    return Unsent(
        [envelope for envelope, is_left in zip(envelopes, left, strict=False) if is_left],
        [parcel for parcel, is_left in zip(parcels, left[split:], strict=True) if is_left],
        doubtful, address,
    )  # fmt: skip


class Transport(ABC):
    """A queue server, as this process reaches it. Waiting is bounded by `timeout` (seconds), errors are ours."""

    product: str
    """The server's product, as errors name it. `str()` of a transport also says where the server is."""

    widest: int = 1_000_000
    """By how many messages a consumer's window is widened at once."""

    counts_held: bool = False
    """Whether the messages that workers hold are counted by `Inspection.size`, too."""

    timeout: float
    codec: Codec
    declared: set[Any]
    """What is known to exist (lines, addresses). Cleared when something turns out to be deleted."""

    @property
    @abstractmethod
    def topology(self) -> Topology:
        """The names on this server; known after `learn`, and inside procedures."""

    @property
    def holds_delayed(self) -> Holds:
        """Whether the server holds delayed messages; known after `learn`, and inside procedures.

        Of those that are kept in a store, `publish` gets none before it is due.
        """
        return Holds.SAFELY

    # --- Sending --------------------------------------------------------------------------------------

    @abstractmethod
    def do(self, procedure: Callable[[], Procedure[Result]], within: float | None = None) -> Result:
        """Carry out a procedure, blocking. It is begun again after a lost connection, until the time-out.

        Raises `BrokerUnavailable` within so many seconds (the time-out), or `BrokerError`.
        """

    @abstractmethod
    async def ado(self, procedure: Callable[[], Procedure[Result]], within: float | None = None) -> Result:
        """Coroutine version of `do`. If it is cancelled, the procedure may have been carried out."""

    @abstractmethod
    def publish(self, envelopes: Sequence[Envelope], parcels: Sequence[Parcel], now: float,
                keep: Callable[[Unsent], None]) -> Procedure[Unsent | None]:  # fmt: skip
        """Send envelopes to their lines (through a delay where they are due later) and parcels to their addresses.

        Returns when the server has confirmed all; or returns those that reached no queue, because it was deleted.
        Where the server refuses a part, passes it to `keep` and raises.
        """

    @abstractmethod
    def exists(self, address: str) -> Procedure[bool]:
        """Say whether the server has a queue, however it was declared."""

    @abstractmethod
    def declare(self, line: Line, missing: bool) -> Procedure[None]:
        """Declare a line's queue if it is missing; let delayed messages reach it in either case."""

    @abstractmethod
    def declare_dead(self, queue: str) -> Procedure[None]:
        """Declare the queue of a queue's dead letters."""

    def declare_delays(self) -> Procedure[None]:
        """Declare what delayed messages pass through. Not called where the server holds none."""
        yield from ()

    @abstractmethod
    def broadcast(self, channel: str, payloads: Sequence[bytes]) -> Procedure[None]:
        """Send payloads to the current subscribers of a channel, declaring what that takes."""

    @abstractmethod
    def write_journal(self, channel: str, entries: Sequence[bytes]) -> Procedure[None]:
        """Send entries to the journal's durable queue and to the channel's subscribers; return when confirmed."""

    @abstractmethod
    def losses(self, pushed: Any) -> int | None:
        """Return how often the server has taken a message back, as it counts; None if it says only that it has."""

    # --- Connections ----------------------------------------------------------------------------------

    @abstractmethod
    async def learn(self) -> None:
        """Connect, unless a connection was made before, so that `topology` is known. Raises `BrokerUnavailable`."""

    @abstractmethod
    def answering(self, within: float | None = None) -> AbstractAsyncContextManager[None]:
        """Bound a block by so many seconds (the time-out); raise `BrokerUnavailable` if the server does not answer."""

    @abstractmethod
    async def connect_worker(self, lease_seconds: float, name: str) -> WorkerConnection:
        """Open a worker's connection, on which the server notices a dead worker within `lease_seconds`."""

    @abstractmethod
    async def subscribe(self, channel: str, take: Callable[[bytes], None], lost: Callable[[], None]) -> Subscription:
        """Open a connection that calls `take` with each payload of a channel. Raises `BrokerUnavailable`."""

    @abstractmethod
    def inspecting(self) -> AbstractAsyncContextManager[Inspection]:
        """Open a connection to inspect queues with, separate from the publishers', for a block."""

    @abstractmethod
    def close(self) -> None:
        """Close connections; a later call opens them again."""


class WorkerConnection(ABC):
    """A worker's connection. When it ends, the server puts what was not acknowledged back into the queues."""

    lost: Exception | None
    """Why the connection has ended."""
    refusal: AccessRefused | None = None
    """Set if it has ended because the worker lacks rights: connecting again would not help."""

    @abstractmethod
    def listen(self, delivered: Callable[[Any], None], cancelled: Callable[[str], None],
               lost: Callable[[], None]) -> None:  # fmt: skip
        """Call `delivered` with each message that is pushed, `cancelled` with the tag of each consumer that the server
        has ended, and `lost` when the connection has ended (also when it is closed here).
        """

    @abstractmethod
    def consume(self, address: str, consumer_tag: str, window: int) -> asyncio.Future[Any]:
        """Let the server push messages of a queue while fewer than `window` of this consumer are unsettled.

        The future is done when the server has confirmed the consumer, or has not.
        """

    @abstractmethod
    def cancel(self, consumer_tag: str) -> None:
        """End a consumer. What was pushed to it stays to be settled; some more may be on its way."""

    @abstractmethod
    def acknowledge(self, tags: Sequence[int], oldest: int | None) -> None:
        """Acknowledge messages by their tags, which are sorted; `oldest`: the lowest tag that stays unacknowledged."""

    async def move(self, sending: Callable[[], Procedure[None]], tags: Sequence[int]) -> bool:
        """Carry out a procedure that sends, and acknowledge messages in the same atomic step.

        False if the server cannot: nothing was done. Raises `OSError` when the connection is lost: the step was taken,
        or the server puts the messages back.
        """
        return False

    async def put_back(self, tags: Sequence[int]) -> bool:
        """Let the server take back messages that were not received, uncounted, and push none in their place.

        False if the server cannot: nothing was done, and they are to be sent again. Raises `BrokerError`.
        """
        return False

    def renew(self, begin_again: Callable[[], None]) -> None:  # noqa: B027 - most have nothing to do
        """Called whenever the lease is renewed. `begin_again` ends all consumers, and begins them."""

    def ending(self) -> None:  # noqa: B027 - most have nothing to do
        """Prepare for the end: what is pushed after the next `sync` need not be delivered, and goes back uncounted."""

    @abstractmethod
    async def sync(self) -> None:
        """Return when all that the server had pushed before has been delivered."""

    @abstractmethod
    async def count(self, addresses: Sequence[str]) -> list[int]:
        """Return how many messages wait in queues, without those that were pushed. Raises `QueueMissing`."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop consuming: return when the server has put back what was not acknowledged."""

    @abstractmethod
    async def follow(self, channel: str, take: Callable[[bytes], None]) -> None:
        """Call `take` with each payload that is broadcast on a channel from now on."""

    @abstractmethod
    async def announce(self) -> None:
        """Be counted by `Inspection.workers` for as long as the connection lasts."""

    @abstractmethod
    async def read_journal(self, channel: str, keep: Keep) -> None:
        """Read the journal's queue, as its only reader: see `Inspection.read_journal`."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def abandon(self, why: str = "this process closed it") -> None:
        """Cut the connection without closing it first, as the end of the process would."""


class Taken(ABC):
    """Messages that were taken out of a queue for a while."""

    messages: Sequence[Pushed]
    copies: bool = False
    """Whether the messages have stayed in the queue: the server does not count this as a delivery."""

    @abstractmethod
    def acknowledge(self, tags: Sequence[int]) -> None:
        """Remove messages from the queue for good."""


class Inspection(ABC):
    """A connection that inspects queues."""

    @abstractmethod
    async def size(self, address: str) -> int:
        """Return how many messages wait in a queue; 0 where there is none."""

    @abstractmethod
    async def workers(self) -> int:
        """Return how many workers are connected."""

    @abstractmethod
    def taking(self, address: str, limit: int) -> AbstractAsyncContextManager[Taken]:
        """Take up to `limit` messages from a queue for a block; then put back those that were not acknowledged."""

    def looking(self, address: str, limit: int) -> AbstractAsyncContextManager[Taken]:
        """Look at up to `limit` messages for a block, of which none is acknowledged unless it is worn."""
        return self.taking(address, limit)

    @abstractmethod
    async def read_journal(self, channel: str, keep: Keep) -> None:
        """Pass all entries of the journal to `keep`, oldest first, and remove those of which it says False.

        The journal has one reader at a time: others wait.
        """


class Subscription(ABC):
    """A subscriber's connection."""

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether the connection has ended."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""
