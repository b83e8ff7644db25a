"""The operations of the hub's broker: inspecting and managing queues, dead letters and workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from celeriac.drivers.zmq.frames import FRAME_BYTES, portions
from celeriac.drivers.zmq.server import Server
from celeriac.drivers.zmq.verbs import Found, Removed
from celeriac.model.message import Message
from celeriac.ports.operations import (
    UNREADABLE,
    Dead,
    Holder,
    Operations,
    QueueCounts,
    Removal,
    Waiting,
    WorkerInfo,
    anew,
    now_due,
    unreadable,
    worker_of,
)

__all__ = ["HubOperations"]

FEW: Final = 100  # ids that are asked for together
MANY: Final = 1000  # messages in one request, at most


class HubOperations(Operations):
    """Operations by requests to the hub. Messages that are sent anew are encoded here: the hub has no keys."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def queues(self) -> list[QueueCounts]:
        found: list[QueueCounts] = await self._ask("queues")
        return found

    async def peek(self, queue: str, limit: int, offset: int = 0) -> list[Message]:
        return list(map(self._shown, await self._page("peek", queue, limit, offset)))

    async def heads(self, queue: str) -> list[Message]:
        return list(map(self._shown, await self._ask("heads", queue)))

    async def scheduled(self, queue: str | None, limit: int, offset: int = 0) -> list[Message]:
        return list(map(self._shown, await self._page("scheduled", queue, limit, offset)))

    async def find(self, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        return {one.id: (one.state, self._shown(one)) async for one in self._found(ids)}

    async def holder(self, message: Message) -> Holder | None:
        found = await self._ask("holder", message.id)
        return next((Holder(self._worker(*row), row[2], deliveries) for *row, deliveries in found), None)

    async def revoked(self, ids: Sequence[str]) -> set[str]:
        return set(await self._ask("revoked", list(ids)))

    async def waiting(self, queue: str, limit: int) -> list[Waiting]:
        return [Waiting(one.key, self._shown(one)) for one in await self._ask("waiting", queue, limit)]

    async def remove(self, queue: str, removals: Sequence[Removal]) -> list[bool]:
        pack, pack_outcome = self._server.pack, self._server.pack_outcome
        items = [Removed(one.key, None if one.outcome is None else pack_outcome(one.outcome), one.leaves_pending,
                         list(map(pack, one.follow_ups))) for one in removals]  # fmt: skip
        done: list[bool] = await self._ask("remove", queue, items)
        return done

    async def run_now(self, ids: Sequence[str]) -> int:
        return await self._rewrite(ids, ("scheduled",), now_due)

    async def move(self, ids: Sequence[str], queue: str) -> int:
        return await self._rewrite(ids, ("ready", "scheduled"), lambda message: replace(message, queue=queue), queue)

    async def _rewrite(self, ids: Sequence[str], states: Sequence[str], changed: Callable[[Message], Message],
                       to: str | None = None) -> int:  # fmt: skip
        """Write messages that wait in one of these states anew, changed; return how many there were. Not those `to`."""
        changes: dict[str, tuple[bytes, bytes]] = {}
        async for one in self._found(ids):
            message = self._shown(one)
            if one.state in states and one.queue != to and message.task != UNREADABLE:
                changes[one.id] = (one.data, self._server.pack(changed(message)))
        count = 0
        for some in portions([*changes.items()], lambda change: len(change[1][0]) + len(change[1][1]), MANY):
            count += await self._ask("rewrite", dict(some), list(states))
        return count

    async def pause(self, queue: str) -> None:
        await self._ask("pause", queue)

    async def resume(self, queue: str) -> None:
        await self._ask("resume", queue)

    async def dead(self, queue: str | None, limit: int, offset: int = 0) -> list[Dead]:
        return [Dead(message=self._shown(one), reason=one.reason, at=one.at)
                for one in await self._page("dead", queue, limit, offset)]  # fmt: skip

    async def resend(self, ids: Sequence[str]) -> int:
        codec = self._server.codec
        values = [(one.id, self._server.pack(anew(self._shown(one), codec)))
                  async for one in self._found(ids) if one.state == "dead"]  # fmt: skip
        count = 0
        for some in portions(values, lambda value: len(value[1]), MANY):
            count += await self._ask("resend", dict(some))
        return count

    async def drop(self, ids: Sequence[str]) -> int:
        count: int = await self._ask("drop", list(ids))
        return count

    async def workers(self) -> list[WorkerInfo]:
        return [self._worker(*row) for row in await self._ask("workers")]

    def _worker(self, info: bytes, renewed_at: float, expires_at: float) -> WorkerInfo:
        return replace(worker_of(info, self._server.codec), renewed_at=renewed_at, expires_at=expires_at)

    def _shown(self, one: Found) -> Message:
        """Decode a message for display; return a placeholder if it is unreadable."""
        try:
            return self._server.message(one.data, one.queue)
        except ValueError as error:
            return unreadable(one.data, one.queue, str(error), id=one.id).message

    async def _page(self, verb: str, queue: str | None, limit: int, offset: int) -> list[Found]:
        """Return a page; the hub answers with a part of it, if it is large."""
        found: list[Found] = []
        while part := await self._ask(verb, queue, limit - len(found), offset + len(found)):
            found += part
            if len(found) >= limit or sum(len(one.data) for one in part) < FRAME_BYTES:
                break
        return found

    async def _found(self, ids: Sequence[str]) -> AsyncIterator[Found]:
        """Yield messages by their ids."""
        for start in range(0, len(ids), FEW):
            for one in await self._ask("find", list(ids[start : start + FEW])):
                yield one

    async def _ask(self, verb: str, *arguments: Any) -> Any:
        return await self._server.ado(f"operations.{verb}", *arguments)
