"""Delays in Redis, for brokers whose server holds no delayed messages.

The scripts `delays_….lua` say what each step does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec.structs import replace

from celeriac.drivers.redis.error_translation import InDoubt
from celeriac.drivers.redis.server import Command, Server
from celeriac.model.clock import Clock
from celeriac.ports.delays import Counts, Delayed, DelayStore, Due, Taken, new_token

__all__ = ["RedisDelayStore"]

BATCH: Final = 200  # messages per script call: Redis serves no other client meanwhile


class RedisDelayStore(DelayStore):
    """Messages in hashes, their times in sorted sets."""

    poll = 0.25

    def __init__(self, server: Server, clock: Clock) -> None:
        self._server = server
        self._clock = clock

    def keep(self, messages: Sequence[Delayed]) -> None:
        for part in _parts(messages):
            try:
                self._server.do(self._keeping(part), again=False)
            except InDoubt:
                self._server.do(self._keeping(_again(part)))

    async def akeep(self, messages: Sequence[Delayed]) -> None:
        for part in _parts(messages):
            try:
                await self._server.ado(self._keeping(part), again=False)
            except InDoubt:
                await self._server.ado(self._keeping(_again(part)))

    def _keeping(self, messages: Sequence[Delayed]) -> Command:
        given: list[Any] = []
        for one in messages:
            due = f"+{one.delay:.6f}" if one.due_at is None else f"{one.due_at:.6f}"
            given += [one.id, one.queue, due, int(one.again), int(one.replaces), one.data]
        return self._server.script("delays_keep", self._now(), *given)

    async def take_due(self, limit: int, seconds: float) -> Due:
        token = new_token()
        soonest, rows = await self._run("delays_take_due", self._now(), seconds, token, limit)
        return Due(_taken(rows, token), float(soonest) if soonest else None)

    async def take(self, ids: Sequence[str], seconds: float) -> list[Taken]:
        token = new_token()
        return _taken(await self._run("delays_take", self._now(), seconds, token, *dict.fromkeys(ids)), token)

    async def take_from(self, queue: str, limit: int, seconds: float) -> list[Taken]:
        token = new_token()
        return _taken(await self._run("delays_take_from", self._now(), seconds, token, limit, queue), token)

    async def remove(self, taken: Sequence[Taken]) -> list[bool]:
        return await self._end(taken, 1)

    async def release(self, taken: Sequence[Taken]) -> None:
        await self._end(taken, 0)

    async def _end(self, taken: Sequence[Taken], deletes: int) -> list[bool]:
        parts = [part for one in taken for part in (one.id, one.token)]
        return [bool(done) for done in await self._run("delays_end", deletes, *parts)] if parts else []

    async def counts(self) -> dict[str, Counts]:
        rows = await self._run("delays_counts", self._now())
        return {
            queue.decode(errors="replace"): Counts(int(due), int(every) - int(due))
            for queue, due, every in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        }

    async def page(self, queue: str | None, due: bool, limit: int, offset: int = 0) -> list[Taken]:
        of = [] if queue is None else [queue]
        return _taken(await self._run("delays_page", self._now(), int(due), limit, offset, *of), 0)

    async def changed(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, self.poll))

    def _now(self) -> str:
        return self._server.moment(self._clock)

    async def _run(self, script: str, *given: Any) -> Any:
        return await self._server.ado(self._server.script(script, *given))


def _parts(messages: Sequence[Delayed]) -> Iterator[Sequence[Delayed]]:
    return (messages[start : start + BATCH] for start in range(0, len(messages), BATCH))


def _again(messages: Sequence[Delayed]) -> list[Delayed]:
    """Return messages that may have been kept, and moved, by a request whose reply was lost."""
    return [replace(message, again=True) for message in messages]


def _taken(rows: Sequence[bytes], token: int) -> list[Taken]:
    return [
        Taken(id.decode(errors="replace"), queue.decode(errors="replace"), data, float(due), token, again == b"1")
        for id, queue, due, again, data in zip(*[iter(rows)] * 5, strict=True)
    ]
