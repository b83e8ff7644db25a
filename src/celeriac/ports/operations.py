"""The port for operating a broker: count, inspect, purge and pause queues; handle dead letters; list workers.

Used by front ends alone, through `Broker.operations()`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from celeriac.model.message import Message, new_id

__all__ = ["Dead", "Operations", "QueueCounts", "WorkerInfo", "anew", "unreadable"]


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker presents itself to those who look."""

    name: str
    host: str = ""
    pid: int = 0
    started_at: float = 0.0
    queues: tuple[str, ...] = ()
    concurrency: Mapping[str, int] = {}
    version: str = ""
    renewed_at: float = 0.0
    expires_at: float = 0.0


class QueueCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many messages a queue holds, by what they wait for."""

    queue: str
    ready: int = 0
    scheduled: int = 0  # their time has not come
    active: int = 0  # held by workers
    dead: int = 0
    paused: bool = False


class Dead(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: a message that was put aside, and why."""

    message: Message
    reason: str
    at: float


class Operations(ABC):
    """Looking into a broker, and operating it."""

    @abstractmethod
    async def queues(self) -> list[QueueCounts]:
        """Count the messages of every queue that has any, or is paused."""

    @abstractmethod
    async def peek(self, queue: str, limit: int, offset: int = 0) -> list[Message]:
        """Return messages that are ready, in the order in which they would be received."""

    @abstractmethod
    async def scheduled(self, queue: str | None, limit: int, offset: int = 0) -> list[Message]:
        """Return messages whose time has not come, soonest first."""

    @abstractmethod
    async def find(self, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        """Return, by id, where a message is ("ready", "scheduled", "active" or "dead"), and the message."""

    @abstractmethod
    async def purge(self, queue: str) -> int:
        """Drop a queue's ready and scheduled messages; return how many."""

    @abstractmethod
    async def pause(self, queue: str) -> None:
        """Let nobody receive from a queue, until it is resumed; survives restarts."""

    @abstractmethod
    async def resume(self, queue: str) -> None:
        """End a pause."""

    @abstractmethod
    async def dead(self, queue: str | None, limit: int, offset: int = 0) -> list[Dead]:
        """Return dead letters, newest first."""

    @abstractmethod
    async def resend(self, ids: Sequence[str]) -> int:
        """Put dead letters back in their queues, as if new; return how many there were."""

    @abstractmethod
    async def drop(self, ids: Sequence[str]) -> int:
        """Forget dead letters; return how many there were."""

    @abstractmethod
    async def workers(self) -> list[WorkerInfo]:
        """Return the workers whose leases stand."""


def anew(message: Message) -> Message:
    """Return a dead letter's message as it is sent again: as if it had never been tried."""
    # Its workflow has gone on without it, and could not count it twice.
    return msgspec.structs.replace(message, attempt=1, due_at=None, unknown_since=None, place=None)


def unreadable(body: bytes, queue: str, why: str = "it is no message of Celeriac's", at: float = 0.0, *,
               id: str | None = None) -> Dead:  # fmt: skip
    """Return as a dead letter what cannot be read: its bytes are the body of a message that stands for it."""
    message = Message(id=id or new_id(), task="(unreadable)", body=body, queue=queue)
    return Dead(message=message, reason=why, at=at)
