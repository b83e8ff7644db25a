"""Outcomes in Redis: on the server that holds the messages, or another."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from celeriac.drivers.redis import outcomes
from celeriac.drivers.redis.claims import RedisClaimStore
from celeriac.drivers.redis.delays import RedisDelayStore
from celeriac.drivers.redis.error_translation import is_our_limit
from celeriac.drivers.redis.history import RedisHistory
from celeriac.drivers.redis.schedules import RedisScheduleStore
from celeriac.drivers.redis.server import Command, Server, server
from celeriac.errors import BrokerUnavailable
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.outcome import Outcome
from celeriac.ports.backend import Backend
from celeriac.ports.claims import ClaimKeeper, ClaimStore
from celeriac.ports.delays import DelayKeeper, DelayStore
from celeriac.ports.history import History, HistoryKeeper
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan, WorkflowStore

__all__ = ["RedisBackend", "connect"]

Result = TypeVar("Result")

log = logging.getLogger("celeriac.backends")

BATCH = 500
PAGE = 500
PENDING = re.compile(r"(.{1,1000}):([0-9]{1,9})", re.DOTALL)  # an entry of the set of pending nodes
LOOK_SECONDS = 5.0  # a waiting caller looks again after this, even if it was not notified
PAUSE = 0.1  # seconds between attempts, while the server cannot be reached
GATHER_SECONDS = (100e-6, 0.5)  # after the first outcome, a caller gathers more: so long for each task; at most


class RedisBackend(Backend, WorkflowStore, ScheduleKeeper, ClaimKeeper, DelayKeeper, HistoryKeeper):
    """Outcomes by task id, each a value that expires; waiting callers subscribe to one of 64 channels."""

    lacks = frozenset()

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.server = server
        self.clock = clock
        self.codec = server.codec
        self._kept = outcomes.milliseconds(result_expires)

    async def store(self, items: Sequence[Outcome]) -> list[bool]:
        commands = [
            self.server.script(
                "store", self._kept,
                *[
                    part
                    for item in items[start : start + BATCH]
                    for part in (item.id, outcomes.encode(item, self.codec), outcomes.channel_of(item.id))
                ],
            )
            for start in range(0, len(items), BATCH)
        ]  # fmt: skip
        replies = await self.server.ado_all(commands) if commands else []
        return [bool(stored) for reply in replies for stored in reply]

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        if not ids:
            return {}
        if wait <= 0:
            return self._found(ids, self.server.do(self._get(ids)), final=False)
        deadline = self.clock.monotonic() + wait
        lost_at: float | None = None
        while lost_at is None or self.clock.monotonic() < deadline:
            try:
                return self._await(ids, deadline)
            except BrokerUnavailable:
                if lost_at is None or time.monotonic() - lost_at > self.server.timeout:
                    raise
            except OSError as error:
                if is_our_limit(error):
                    raise self.server.silent(error) from error
                lost_at = time.monotonic()
            time.sleep(max(0.0, min(PAUSE, deadline - self.clock.monotonic())))
        return {}

    def _await(self, ids: Sequence[str], deadline: float) -> dict[str, Outcome]:
        """Subscribe, look, and then collect notified outcomes; return an empty dict at the deadline.

        Raises `BrokerUnavailable` if it cannot connect, another `OSError` if the connection is lost.
        """
        found: dict[str, Outcome] = {}
        ended: set[str] = set()  # notified without the value
        wanted = set(ids)

        def hear(channel: str, payload: bytes) -> None:
            _take_notified(payload, wanted, found, ended, self.codec)

        channels = self._channels(ids)
        gives_up = time.monotonic() + self.server.timeout
        with self.server.pubsub(hear) as subscriber:
            values = subscriber.ask(self._get(ids), gives_up - time.monotonic(), channels)
            found.update(self._found(ids, values, final=True))
            looked = self.clock.monotonic()
            while len(found) < len(wanted):
                asked = list(ended)
                ended.clear()
                now = self.clock.monotonic()
                if found:
                    deadline = min(deadline, now + _gathering(wanted))
                if not asked and now >= deadline:
                    break
                if not asked and now - looked > LOOK_SECONDS:
                    asked, looked = list(ids), now
                if asked:
                    values = subscriber.ask(self._get(asked), self.server.timeout)
                    found.update(self._found(asked, values, final=True))
                else:
                    subscriber.pump(min(deadline - now, LOOK_SECONDS))
            subscriber.unsubscribe(channels)
        return found

    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        if not ids:
            return {}
        found = self._found(ids, await self.server.ado(self._get(ids)), final=wait > 0)
        wanted = set(ids)
        if len(found) == len(wanted) or wait <= 0:
            return found
        deadline = self.clock.monotonic() + wait
        ended, some = wanted - set(found), asyncio.Event()  # may have ended; the value was not notified

        def hear(payload: bytes | None) -> None:
            if payload is None:
                ended.update(wanted)
            else:
                _take_notified(payload, wanted, found, ended, self.codec)
            if found or ended:
                some.set()

        joined = []
        try:
            for channel in self._channels(ids):
                await self._patiently(partial(self.server.hear, channel, hear))
                joined.append(channel)
            while len(found) < len(wanted):
                asked = list(ended - set(found))
                ended.clear()
                some.clear()
                if asked:
                    values = await self._patiently(partial(self.server.ado, self._get(asked)))
                    found.update(self._found(asked, values, final=True))
                    continue
                now = self.clock.monotonic()
                if found:
                    deadline = min(deadline, now + _gathering(wanted))
                if now >= deadline:
                    break
                try:
                    async with asyncio.timeout(min(deadline - now, LOOK_SECONDS)):
                        await some.wait()
                except TimeoutError:
                    if not found:
                        ended.update(wanted)
        finally:
            for channel in joined:
                self.server.unhear(channel, hear)
        return found

    async def _patiently(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Retry until it succeeds, or until the server was unreachable for longer than the time-out."""
        failing: float | None = None
        while True:
            try:
                return await work()
            except BrokerUnavailable:
                failing = failing or time.monotonic()
                if time.monotonic() - failing > self.server.timeout:
                    raise
            await asyncio.sleep(PAUSE)

    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        """Return the outcomes stored last, out of the last 10,000."""
        found: list[Outcome] = []
        seen: set[str] = set()
        start = 0
        while len(found) < offset + limit:
            ids = await self.server.ado(("LRANGE", f"{self.server.prefix}:recent", start, start + PAGE - 1))
            if not ids:
                break
            start += PAGE
            fresh = [id for id in dict.fromkeys(map(bytes.decode, ids)) if id not in seen]
            seen.update(fresh)
            if fresh:
                known = self._found(fresh, await self.server.ado(self._get(fresh)), final=False)
                found += [known[id] for id in fresh if id in known and state in (None, known[id].state)]
        return found[offset : offset + limit]

    def forget(self, ids: Sequence[str]) -> None:
        if ids:
            self.server.do(("UNLINK", *map(self._key, ids)))

    async def aforget(self, ids: Sequence[str]) -> None:
        if ids:
            await self.server.ado(("UNLINK", *map(self._key, ids)))

    # --- Workflows ------------------------------------------------------------------------------------

    def plant(self, plan: Plan, again: bool = False) -> None:
        self.server.do(self._plant(plan, again))

    async def aplant(self, plan: Plan, again: bool = False) -> None:
        await self.server.ado(self._plant(plan, again))

    def _plant(self, plan: Plan, again: bool) -> Command:
        missing = [part for item in plan.missing.items() for part in item]
        return self.server.script("plant", self._kept, int(again), plan.id, plan.tree, plan.left, *missing)

    def trees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return _found_trees(ids, self.server.do_all(self._trees(ids)) if ids else [])

    async def atrees(self, ids: Sequence[str]) -> dict[str, bytes]:
        return _found_trees(ids, await self.server.ado_all(self._trees(ids)) if ids else [])

    def _trees(self, ids: Sequence[str]) -> list[Command]:
        return [("HGET", f"{self.server.prefix}:workflow:{id}", "tree") for id in ids]

    async def unfinished(self, limit: int) -> list[str] | None:
        listed = f"{self.server.prefix}:unfinished"
        while True:
            ids: list[bytes] = await self.server.ado(("ZREVRANGE", listed, 0, limit - 1)) if limit > 0 else []
            keys = [f"{self.server.prefix}:workflow:".encode() + id for id in ids]
            are_there = await self.server.ado_all([("EXISTS", key) for key in keys]) if keys else []
            gone = [id for id, is_there in zip(ids, are_there, strict=True) if not is_there]
            if not gone:
                return [id.decode(errors="replace") for id in ids]
            await self.server.ado(("ZREM", listed, *gone))  # they have expired

    def uproot(self, ids: Sequence[str]) -> None:
        if ids:
            prefix = self.server.prefix
            self.server.do_all([("UNLINK", *[f"{prefix}:workflow:{id}" for id in ids]),
                                ("ZREM", f"{prefix}:unfinished", *ids)])  # fmt: skip

    async def conclude(self, ends: Sequence[NodeEnd]) -> list[bool]:
        commands = [
            self.server.script(
                "conclude",
                self._kept,
                *(
                    part
                    for end in ends[start : start + BATCH]
                    for part in outcomes.end_parts(end.outcome, end.leaves_pending, self.codec)
                ),
            )
            for start in range(0, len(ends), BATCH)
        ]
        replies = await self.server.ado_all(commands) if commands else []
        return [bool(stored) for reply in replies for stored in reply]

    async def claim_pending(self, limit: int, seconds: float) -> dict[PendingNode, bool]:
        command = self.server.script("due", self.server.moment(self.clock), limit, repr(seconds))
        reply = await self.server.ado(command)
        found: dict[PendingNode, bool] = {}
        foreign: list[bytes] = []
        for entry, free_at in zip(reply[::2], reply[1::2], strict=True):
            if (match := PENDING.fullmatch(entry.decode(errors="replace"))) is not None and match[0].encode() == entry:
                found[PendingNode(match[1], int(match[2]))] = float(free_at) > 0
            else:
                foreign.append(entry)
        if foreign:
            log.error("%d entries of %s:dues name no node of a workflow and are removed: %r …", len(foreign),
                      self.server.prefix, foreign[0][:100])  # fmt: skip
            await self.server.ado(("ZREM", f"{self.server.prefix}:dues", *foreign))
        return found

    async def advance(self, advances: Sequence[Advance]) -> list[bool]:
        now = self.server.moment(self.clock)
        parts = [outcomes.advance_parts(item, self.codec) for item in advances]
        commands = [self.server.script("advance", now, self._kept, *of_one) for of_one in parts]
        return [bool(done) for done in await self.server.ado_all(commands)] if commands else []

    def schedules(self) -> ScheduleStore:
        return RedisScheduleStore(self.server, self.clock, self._kept)

    def claims(self) -> ClaimStore:
        return RedisClaimStore(self.server)

    def delays(self) -> DelayStore:
        return RedisDelayStore(self.server, self.clock)

    def history(self) -> History:
        return RedisHistory(self.server)

    def _get(self, ids: Sequence[str]) -> tuple[str, ...]:
        return ("MGET", *map(self._key, ids))

    def _found(self, ids: Sequence[str], values: Sequence[bytes | None], final: bool) -> dict[str, Outcome]:
        known = {
            id: value
            for id, value in zip(ids, values, strict=True)
            if value is not None and (not final or value.startswith(b"1"))
        }
        return {id: outcomes.read(id, value, self.codec) for id, value in known.items()}

    def _key(self, id: str) -> str:
        return f"{self.server.prefix}:outcome:{id}"

    def _channels(self, ids: Sequence[str]) -> list[str]:
        return [f"{self.server.prefix}:done:{number}" for number in {outcomes.channel_of(id) for id in ids}]

    def close(self) -> None:
        self.server.close()

    def __repr__(self) -> str:
        return f"<RedisBackend {self.server.address}>"


def _take_notified(payload: bytes, wanted: set[str], found: dict[str, Outcome], ended: set[str],
                   codec: Codec) -> None:  # fmt: skip
    for id, value in outcomes.announced(payload):
        if id in wanted:
            if value is None:
                ended.add(id)
            else:
                found[id] = outcomes.read(id, value, codec)


def _gathering(wanted: set[str]) -> float:
    """Return for how long (seconds) to gather outcomes: the next `fetch` asks for all remaining tasks again."""
    each, most = GATHER_SECONDS
    return min(each * len(wanted), most)


def _found_trees(ids: Sequence[str], values: Sequence[bytes | None]) -> dict[str, bytes]:
    return {id: value for id, value in zip(ids, values, strict=True) if value is not None}


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> RedisBackend:  # fmt: skip
    """Return the backend for a `redis://` URL."""
    return RedisBackend(server(url, prefix, timeout, codec), clock, result_expires)
