"""The port for operating a broker: count, inspect, purge and pause queues; move messages; dead letters; workers.

Used only by front ends, through `Broker.operations()`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from celeriac.errors import NotSupported
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.gate import Instant, Name, OptionalName, reader
from celeriac.model.message import Message, new_id
from celeriac.model.outcome import Outcome

__all__ = ["UNREADABLE", "UNREADABLE_WORKER", "WITHDRAWN", "Dead", "First", "Holder", "Operations", "QueueCounts",
           "Removal", "Waiting", "WorkerInfo", "anew", "labelled", "now_due", "read_dead", "read_worker", "unreadable",
           "worker_of"]  # fmt: skip


WITHDRAWN = 1000  # messages at a time


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as front ends show it."""

    name: Name
    host: OptionalName = ""
    pid: int = 0
    started_at: Instant = 0.0
    queues: tuple[Name, ...] = ()
    concurrency: Mapping[str, int] = {}
    version: OptionalName = ""
    renewed_at: Instant = 0.0
    expires_at: Instant = 0.0


class QueueCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages a queue holds, by state."""

    queue: str
    ready: int = 0
    scheduled: int = 0  # not due yet
    active: int = 0  # held by workers
    dead: int = 0
    paused: bool = False
    uncounted: str = ""
    """Why the server does not tell how many are ready and dead: there are at least so many. Empty: it does."""

    def shown(self, count: int) -> str | int:
        """Return the number of ready or dead messages as people read it."""
        return count if not self.uncounted else f"{count:,}+" if count else "?"


class Dead(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: a message that was buried, and the reason."""

    message: Message
    reason: str
    at: Instant


class Holder(NamedTuple):
    """Who holds a message."""

    worker: WorkerInfo
    expires_at: float  # of its lease, unless it is renewed; then the message returns to its queue
    deliveries: int  # of the message, with this one, that were not settled


class Waiting(NamedTuple):
    """A ready or scheduled message, and the broker's own key for it, which unreadable ones have too."""

    key: Any
    message: Message


class Removal(NamedTuple):
    """A message that is deleted from its queue, and what is stored about the end of its task."""

    key: Any
    outcome: Outcome | None = None
    leaves_pending: bool = False  # more follows from the end of its node in a workflow than the count of its join
    follow_ups: Sequence[Message] = ()  # published if its task had not ended before


First = Callable[[Sequence[Message]], Awaitable[Sequence[Message]]]
"""What is done before messages are deleted. Returns those that are to be deleted."""


class Operations(ABC):
    """Inspects and operates a broker."""

    @abstractmethod
    async def queues(self) -> list[QueueCounts]:
        """Count the messages of every queue that has messages or is paused."""

    @abstractmethod
    async def peek(self, queue: str, limit: int, offset: int = 0) -> list[Message]:
        """Return ready messages, in the order in which they would be received."""

    async def heads(self, queue: str) -> list[Message]:
        """Return the ready messages of a queue that come next in their lane and priority: one of them is the oldest.

        It costs no more, however many messages there are. Without `Ability.KNOW_IDS`, looking takes messages.
        """
        return await self.peek(queue, 1)

    @abstractmethod
    async def scheduled(self, queue: str | None, limit: int, offset: int = 0) -> list[Message]:
        """Return scheduled messages, soonest first. Raises `NotSupported` without `Ability.SEE_SCHEDULED`."""

    @abstractmethod
    async def find(self, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        """Return, by id, the state of a message ("ready", "scheduled", "active" or "dead"), and the message.

        Raises `NotSupported` without `Ability.KNOW_IDS`.
        """

    async def holder(self, message: Message) -> Holder | None:
        """Return which worker holds a message, also if its lease has expired; None if no worker does, or it is unknown.

        Unknown without `Ability.KNOW_IDS`.
        """
        return None

    async def revoked(self, ids: Sequence[str]) -> set[str]:
        """Return which of these are revoked, so that they end as soon as a worker receives them."""
        return set()

    async def waiting(self, queue: str, limit: int) -> list[Waiting]:
        """Return up to `limit` ready and scheduled messages of a queue, in any order; none if there are no more.

        Raises `NotSupported` without `Ability.KNOW_IDS`.
        """
        raise NotSupported("This broker cannot list waiting messages without taking them.")

    async def remove(self, queue: str, removals: Sequence[Removal]) -> list[bool]:
        """Delete messages that `waiting` has returned; False for those that are not waiting any more.

        In the same step as the deletion, all outcomes are stored and all that follows is published. Removals have
        outcomes only if broker and backend are joined. Raises `NotSupported` without `Ability.KNOW_IDS`.
        """
        raise NotSupported("This broker cannot delete single messages.")

    async def withdraw(self, queue: str, limit: int, first: First | None = None) -> list[Message]:
        """Delete up to `limit` ready and scheduled messages of a queue, and return them; none if there are no more.

        Scheduled ones only with `Ability.SEE_SCHEDULED`. `first` is called with them before they are deleted; if it
        raises, or the process is killed, they are in their queue again. Without `Ability.KNOW_IDS`, no worker can take
        them meanwhile.
        """
        found = await self.waiting(queue, limit)
        if first is not None:
            meant = {message.id for message in await first([one.message for one in found])}
            found = [one for one in found if one.message.id in meant]
        removed = await self.remove(queue, [Removal(one.key) for one in found])
        return [one.message for one, gone in zip(found, removed, strict=True) if gone]

    async def purge(self, queue: str) -> int:
        """Delete the ready and scheduled messages of a queue; return how many there were. Their tasks do not end."""
        count = 0
        while withdrawn := await self.withdraw(queue, WITHDRAWN):
            count += len(withdrawn)
        return count

    async def run_now(self, ids: Sequence[str]) -> int:
        """Make scheduled messages ready, before they are due; return how many there were.

        Raises `NotSupported` without `Ability.KNOW_IDS` and `Ability.SEE_SCHEDULED`.
        """
        raise NotSupported("This broker cannot find a scheduled message, so it cannot run one before it is due.")

    async def move(self, ids: Sequence[str], queue: str) -> int:
        """Move ready and scheduled messages of other queues to this one; return how many there were.

        Each is in one queue at any time. Raises `NotSupported` without `Ability.KNOW_IDS` and `Ability.SEE_SCHEDULED`.
        """
        raise NotSupported("This broker cannot find a waiting message, so it cannot move one to another queue.")

    @abstractmethod
    async def pause(self, queue: str) -> None:
        """Stop all receiving from a queue until it is resumed; survives restarts."""

    @abstractmethod
    async def resume(self, queue: str) -> None:
        """End a pause."""

    @abstractmethod
    async def dead(self, queue: str | None, limit: int, offset: int = 0) -> list[Dead]:
        """Return dead letters, newest first."""

    @abstractmethod
    async def resend(self, ids: Sequence[str]) -> int:
        """Return dead letters to their queues, as new messages; return how many there were."""

    @abstractmethod
    async def drop(self, ids: Sequence[str]) -> int:
        """Delete dead letters; return how many there were."""

    @abstractmethod
    async def workers(self) -> list[WorkerInfo]:
        """Return the workers with a valid lease."""


read_worker: Callable[[bytes | memoryview], WorkerInfo] = reader(WorkerInfo, "the info of a worker", json=True)
"""Return the info of a worker from its JSON. Raises `Unreadable`, a `ValueError`."""

read_dead: Callable[[bytes | memoryview], Dead] = reader(Dead, "a dead letter")
"""Return a dead letter from its msgpack. Raises `Unreadable`, a `ValueError`."""

UNREADABLE: Final = "(unreadable)"
"""What front ends show for the name of a task or worker that cannot be read."""

UNREADABLE_WORKER = WorkerInfo(name=UNREADABLE)


def labelled(workers: Sequence[WorkerInfo]) -> dict[str, WorkerInfo]:
    """Return workers by what front ends call them: their names, with pid and host if others have the same name.

    >>> list(labelled([WorkerInfo(name="a", pid=1), WorkerInfo(name="b", pid=2), WorkerInfo(name="b", pid=3)]))
    ['a', 'b (pid 2)', 'b (pid 3)']
    """
    names = Counter(worker.name for worker in workers)
    return {
        worker.name
        if names[worker.name] == 1
        else f"{worker.name} (pid {worker.pid}{worker.host and f' on {worker.host}'})": worker
        for worker in workers
    }


def worker_of(info: bytes | memoryview, codec: Codec) -> WorkerInfo:
    """Return the info of a worker from its JSON; `UNREADABLE_WORKER` if it cannot be read."""
    try:
        return read_worker(codec.open("worker", info))
    except ValueError:
        return UNREADABLE_WORKER


def anew(message: Message, codec: Codec = PLAIN_CODEC, skip: int = 0) -> Message:
    """Return a dead letter's message as it is sent again: as if it had never been tried.

    A letter whose message could not be read is read again, without its first `skip` bytes: the key may be there now.
    """
    if message.task == UNREADABLE:
        with contextlib.suppress(ValueError):
            message = codec.decode(message.body[skip:], message.queue)
    # Its workflow has continued without it, and would not count it again.
    return msgspec.structs.replace(message, attempt=1, due_at=None, countdown=None, unknown_since=None, requeued=0,
                                   place=None, again=False)  # fmt: skip


def now_due(message: Message) -> Message:
    """Return a scheduled message as it is sent when it is not to wait any more."""
    return msgspec.structs.replace(message, due_at=None, countdown=None)


def unreadable(body: bytes, queue: str, why: str = "it is not a Celeriac message", at: float = 0.0, *,
               id: str | None = None) -> Dead:  # fmt: skip
    """Return a dead letter for bytes that cannot be decoded: they become the body of its message."""
    message = Message(id=id or new_id(), task=UNREADABLE, body=body, queue=queue)
    return Dead(message=message, reason=why, at=at)
