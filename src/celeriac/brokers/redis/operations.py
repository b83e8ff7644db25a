"""The operations of the Redis broker: inspecting and managing queues, dead letters and workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from celeriac.brokers.redis.envelope import PUBLISH_BATCH, blob, due, shown, worker_of
from celeriac.drivers.redis import outcomes
from celeriac.drivers.redis.server import Server
from celeriac.model.clock import Clock
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
)

__all__ = ["RedisOperations"]


class RedisOperations(Operations):
    """Operations by scripts and single commands."""

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self._server = server
        self._clock = clock
        self._result_ttl = outcomes.milliseconds(result_expires)

    async def queues(self) -> list[QueueCounts]:
        rows = await self._run("queues", self._moment())
        found = [
            QueueCounts(queue=name.decode(), ready=ready, scheduled=due, active=held, dead=dead, paused=bool(paused))
            for name, ready, due, held, dead, paused in (rows[i : i + 6] for i in range(0, len(rows), 6))
        ]
        known = [item for item in found if item.paused or item.ready or item.scheduled or item.active or item.dead]
        return sorted(known, key=lambda item: item.queue)

    async def peek(self, queue: str, limit: int, offset: int = 0) -> list[Message]:
        values = await self._run("peek", queue, self._moment(), offset, limit)
        return [shown(value, queue, self._server.codec) for value in values if value]

    async def heads(self, queue: str) -> list[Message]:
        values = await self._run("heads", queue, self._moment())
        return [shown(value, queue, self._server.codec) for value in values if value]

    async def scheduled(self, queue: str | None, limit: int, offset: int = 0) -> list[Message]:
        await self._run("queues", self._moment())  # moves due messages to their lines
        found = await self._ranked("due", queue, "ZRANGE", limit, offset)
        return [shown(value, of, self._server.codec, id) for _, id, of, value, _ in found]

    async def find(self, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        if not ids:
            return {}
        codec, reply = self._server.codec, await self._run("find", self._moment(), *ids)
        return {
            id.decode(): (place.decode(), shown(value, queue.decode(), codec, id.decode()))
            for place, value, queue, id in zip(*(reply[i::4] for i in range(4)), strict=True)
        }

    async def holder(self, message: Message) -> Holder | None:
        rows = await self._server.ado(("ZRANGE", self._key("leases"), 0, -1, "WITHSCORES"))
        leases = [lease.decode() for lease in rows[::2]]
        held = await self._server.ado_all(
            [("HGET", self._of(message.queue, f"held:{lease}"), message.id) for lease in leases]
        ) if leases else []  # fmt: skip
        for lease, score, value in zip(leases, rows[1::2], held, strict=True):
            if value is None:
                continue
            (info,) = await self._server.ado(("HMGET", self._key("workers"), lease))
            if info is not None:
                return Holder(self._worker(info, float(score)), float(score), int(value.split(b":")[1]))
        return None

    async def revoked(self, ids: Sequence[str]) -> set[str]:
        if not ids:
            return set()
        now = await self._now()
        until = await self._server.ado(("ZMSCORE", self._key("revoked"), *ids))
        return {id for id, end in zip(ids, until, strict=True) if end is not None and float(end) > float(now)}

    async def waiting(self, queue: str, limit: int) -> list[Waiting]:
        found, codec = await self._run("waiting", queue, limit), self._server.codec
        return [
            Waiting((id, line), shown(value, queue, codec, id.decode()))
            for id, line, value in zip(*(found[i::3] for i in range(3)), strict=True)
        ]

    async def remove(self, queue: str, removals: Sequence[Removal]) -> list[bool]:
        if not removals:
            return []
        codec, parts = self._server.codec, list[Any]()
        for removal in removals:
            outcome = removal.outcome
            parts += removal.key
            if outcome is None:
                parts += ("",) * 6
            elif outcome.place is None:
                parts += (outcomes.encode(outcome, codec), outcomes.channel_of(outcome.id), "", "", "", "")
            else:
                parts += outcomes.end_parts(outcome, removal.leaves_pending, codec)[1:]
        for number, removal in enumerate(removals, start=1):
            for message in removal.follow_ups:
                parts += (number, message.queue, message.id, blob(message, codec), due(message))
        done = await self._run("purge", queue, self._moment(), self._result_ttl, len(removals), *parts)
        return [gone == 1 for gone in done]

    async def run_now(self, ids: Sequence[str]) -> int:
        return await self._send_anew(ids, now_due)

    async def move(self, ids: Sequence[str], queue: str) -> int:
        def moved(message: Message) -> Message:
            return msgspec.structs.replace(message, queue=queue)

        return await self._send_anew(ids, moved, queue)

    async def _send_anew(self, ids: Sequence[str], changed: Callable[[Message], Message],
                         to: str | None = None) -> int:  # fmt: skip
        """Write messages that wait anew, changed: scheduled ones, or with `to` all that go to another queue."""
        wanted, by_queue, codec, total = list(dict.fromkeys(ids)), dict[str, list[bytes]](), self._server.codec, 0
        for start in range(0, len(wanted), PUBLISH_BATCH):
            reply = await self._run("find", self._moment(), *wanted[start : start + PUBLISH_BATCH])
            for place, value, of, id in zip(*(reply[i::4] for i in range(4)), strict=True):
                queue, message = of.decode(), shown(value, of.decode(), codec, id.decode())
                is_meant = place == b"scheduled" or (to is not None and place == b"ready" and queue != to)
                if is_meant and message.task != UNREADABLE:
                    by_queue.setdefault(queue, []).extend((id, value, blob(changed(message), codec)))
        for queue, parts in by_queue.items():
            for start in range(0, len(parts), 3 * PUBLISH_BATCH):
                some = parts[start : start + 3 * PUBLISH_BATCH]
                total += await self._run("move", queue, to or queue, self._moment(), int(to is None), *some)
        return total

    async def pause(self, queue: str) -> None:
        await self._server.ado(("SADD", self._key("paused"), queue))

    async def resume(self, queue: str) -> None:
        await self._run("resume", queue)

    async def dead(self, queue: str | None, limit: int, offset: int = 0) -> list[Dead]:
        found = await self._ranked("dead", queue, "ZREVRANGE", limit, offset)
        return [
            Dead(message=shown(value, of, self._server.codec, id), reason=(reason or b"").decode(), at=at)
            for at, id, of, value, reason in found
        ]

    async def resend(self, ids: Sequence[str]) -> int:
        return await self._remove_dead(ids, again=True)

    async def drop(self, ids: Sequence[str]) -> int:
        return await self._remove_dead(ids, again=False)

    async def _remove_dead(self, ids: Sequence[str], again: bool) -> int:
        if not ids:
            return 0
        codec, by_queue = self._server.codec, dict[str, list[Message]]()
        reply = await self._run("dead_letters", *ids)
        for value, queue, id in zip(*(reply[i::3] for i in range(3)), strict=True):
            message = shown(value, queue.decode(), codec, id.decode())
            by_queue.setdefault(message.queue, []).append(message)
        total = 0
        for queue, messages in by_queue.items():
            blobs = [blob(anew(message, codec), codec) if again else b"" for message in messages]
            parts = [part for message, value in zip(messages, blobs, strict=True) for part in (message.id, value)]
            total += await self._run("remove_dead", queue, int(again), *parts)
        return total

    async def workers(self) -> list[WorkerInfo]:
        now = await self._now()
        rows = await self._server.ado(("ZRANGE", self._key("leases"), f"({now}", "+inf", "BYSCORE", "WITHSCORES"))
        if not rows:
            return []
        infos = await self._server.ado(("HMGET", self._key("workers"), *rows[::2]))
        known = [(info, float(score)) for info, score in zip(infos, rows[1::2], strict=True) if info is not None]
        return [self._worker(info, expires_at) for info, expires_at in known]

    def _worker(self, info: bytes, expires_at: float) -> WorkerInfo:
        seconds, worker = worker_of(info, self._server.codec)
        return msgspec.structs.replace(worker, renewed_at=expires_at - seconds, expires_at=expires_at)

    async def _now(self) -> str:
        """Return the time of the server, or of the tests' clock."""
        now = self._server.moment(self._clock)
        if now != "":
            return now
        whole, micros = await self._server.ado(("TIME",))
        return repr(int(whole) + int(micros) / 1e6)

    async def _ranked(self, name: str, queue: str | None, command: str, limit: int,
                      offset: int) -> list[tuple[float, str, str, bytes, bytes | None]]:  # fmt: skip
        """Return a page (score, id, queue, blob, reason) of a sorted set of one queue, or of all queues."""
        if queue is None:
            queues = sorted(name.decode() for name in await self._server.ado(("SMEMBERS", self._key("queues"))))
        else:
            queues = [queue]
        if not queues or limit <= 0:
            return []
        pages = await self._server.ado_all(
            [(command, self._of(queue, name), 0, offset + limit - 1, "WITHSCORES") for queue in queues]
        )
        found = [
            (float(page[i + 1]), page[i].decode(), queue)
            for queue, page in zip(queues, pages, strict=True)
            for i in range(0, len(page), 2)
        ]
        found.sort(key=lambda entry: entry[0], reverse=command == "ZREVRANGE")
        page = found[offset : offset + limit]
        if not page:
            return []
        replies = await self._server.ado_all(
            [("HGET", self._of(queue, key), id) for _, id, queue in page for key in ("messages", "reasons")]
        )
        return [
            (score, id, of, replies[2 * i], replies[2 * i + 1])
            for i, (score, id, of) in enumerate(page)
            if replies[2 * i] is not None
        ]

    def _key(self, name: str) -> str:
        return f"{self._server.prefix}:{name}"

    def _of(self, queue: str, name: str) -> str:
        return f"{self._server.prefix}:{{{queue}}}:{name}"

    def _moment(self) -> str:
        return self._server.moment(self._clock)

    async def _run(self, name: str, *arguments: Any) -> Any:
        return await self._server.ado(self._server.script(name, *arguments))
