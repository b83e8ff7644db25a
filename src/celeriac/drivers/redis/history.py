"""The history in Redis. `keys.py` lists the keys; a row's field is its `Key` in JSON, an attempt's member names it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from celeriac.drivers.redis.claims import RedisClaimStore
from celeriac.drivers.redis.server import Command, Server
from celeriac.model.filters import Filter
from celeriac.model.history import (
    SAMPLED,
    Attempt,
    Batch,
    Event,
    FailureSignature,
    Key,
    Status,
)
from celeriac.model.message import new_id
from celeriac.model.repeated_warnings import RepeatedWarnings
from celeriac.ports.claims import ClaimStore
from celeriac.ports.history import History, Limits, Position, samples_meant
from celeriac.ports.history_sums import Change, Row, WorkerState

__all__ = ["RedisHistory"]

warnings = RepeatedWarnings(logging.getLogger("celeriac.redis"))

BATCH: Final = 300  # attempts in one script call: Redis serves no other client meanwhile
SLOTS: Final = 500  # hashes that are read in one round trip
PRUNED: Final = 1000  # attempts, or events, that are deleted at a time
KINDS: Final = ("failure", "sample")


class RedisHistory(History):
    """The history in hashes, sorted by zsets."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.codec = server.codec

    async def record(self, batch: Batch, now: float) -> None:
        known = await self._signatures([one.signature for one in batch.signatures])
        merged = [known[one.signature].merged(one) if one.signature in known else one for one in batch.signatures]
        signatures = [part for one in merged for part in (one.signature, repr(one.last), self.seal(one))]
        events = [part for event in batch.events for part in self._event_parts(event, batch.lease)]
        attempts = [self._parts(attempt) for attempt in batch.attempts]
        commands = [
            self.server.script("history_record", *self.sums_parts(batch, now), min(BATCH, len(attempts)),
                               *_flat(attempts[:BATCH]), len(merged), *signatures, *events)
        ]  # fmt: skip
        for start in range(BATCH, len(attempts), BATCH):
            some = attempts[start : start + BATCH]
            given = self.sums_parts(Batch(lease=batch.lease), now)
            commands.append(self.server.script("history_record", *given, len(some), *_flat(some), 0))
        await self.server.ado_all(commands)

    def sums_parts(self, batch: Batch, now: float) -> list[Any]:
        """Return the sums of a batch as the first arguments of the script."""
        parts: list[Any] = [batch.lease, batch.complete, repr(now), len(batch.sums)]
        for key, sums in batch.sums.items():
            parts += (key.at, _field(key), self.seal_sums(key, sums))
        return parts

    def _parts(self, attempt: Attempt) -> tuple[Any, ...]:
        return (_member(attempt), repr(attempt.done_at), "sample" if attempt.state in SAMPLED else "failure",
                attempt.task, attempt.signature, self.seal(attempt))  # fmt: skip

    def claims(self) -> ClaimStore:
        return RedisClaimStore(self.server)

    async def prune(self, limits: Limits, now: float) -> int:
        count = 0
        for kind, seconds in (("failure", limits.failures), ("sample", limits.samples)):
            name = self._key(f"kind:{kind}")
            total, old = await self.server.ado_all(
                [("ZCARD", name), ("ZRANGE", name, "-inf", f"({now - seconds!r}", "BYSCORE", "LIMIT", 0, PRUNED)]
            )
            surplus = min(total - limits.attempts, PRUNED)
            if surplus > len(old):
                old = await self.server.ado(("ZRANGE", name, 0, surplus - 1))
            count += await self._drop(kind, old)
        for by, seconds, hashes in (("times", limits.events, ("events",)),
                                    ("last", limits.signatures, ("signatures", "marks"))):  # fmt: skip
            horizon = f"({now - seconds!r}"
            gone = await self.server.ado(("ZRANGE", self._key(by), "-inf", horizon, "BYSCORE", "LIMIT", 0, PRUNED))
            if gone:
                deleted = [("HDEL", self._key(name), *gone) for name in hashes]
                await self.server.ado_all([*deleted, ("ZREM", self._key(by), *gone)])
            count += len(gone)
        writing = {row.key.lease for row in await self.unfolded()}
        states = await self.workers()
        ended = [lease for lease, state in states.items() if lease not in writing and state.seen_at < now - 86_400.0]
        if ended:
            await self.server.ado(("HDEL", self._key("workers"), *ended))
        return int(count) + len(ended)

    async def _drop(self, kind: str, members: Sequence[bytes]) -> int:
        if not members:
            return 0
        values = await self.server.ado(("HMGET", self._key("attempts"), *members))
        commands: list[Command] = [
            ("HDEL", self._key("attempts"), *members),
            ("ZREM", self._key("ids"), *members),
            ("ZREM", self._key(f"kind:{kind}"), *members),
        ]
        for attempt in self.attempts_of(value for value in values if value is not None):
            commands.append(("ZREM", self._key(f"task:{attempt.task}"), _member(attempt)))
            if attempt.signature:
                commands.append(("ZREM", self._key(f"signature:{attempt.signature}"), _member(attempt)))
        await self.server.ado_all(commands)
        return len(members)

    # --- Rows of sums ---------------------------------------------------------------------------------

    async def rows(self, step: int, since: int, until: int, limit: int | None = None) -> list[Row]:
        found: list[Row] = []
        slots = await self.server.ado(("ZRANGE", self._key(f"slots:{step}"), since, f"({until}", "BYSCORE"))
        for start in range(0, len(slots), SLOTS if limit is None else 20):
            some = slots[start : start + (SLOTS if limit is None else 20)]
            replies = await self.server.ado_all(
                [("HGETALL", self._key(f"sums:{step}:{int(at)}")) for at in some]
            )
            for reply in replies:
                found += _rows(reply)
            if limit is not None and len(found) >= limit:
                break
        return found[:limit]

    async def unfolded(self) -> list[Row]:
        return _rows(await self.server.ado(("HGETALL", self._key("unfolded"))))

    async def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        if not keys:
            return {}
        values = await self.server.ado_all([("HGET", self._hash(key), _field(key)) for key in keys])
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    async def swap(self, changes: Sequence[Change], folded: Mapping[str, int]) -> bool:
        parts: list[Any] = [len(changes)]
        for change in changes:
            key = change.key
            parts += (key.step, key.at, key.lease, _field(key), int(change.before is not None), change.before or b"",
                      int(change.after is not None), change.after or b"")  # fmt: skip
        return bool(await self.server.ado(self.server.script("history_swap", *parts, *_flat(folded.items()))))

    async def workers(self) -> dict[str, WorkerState]:
        reply = await self.server.ado(("HGETALL", self._key("workers")))
        found = {}
        for lease, value in zip(reply[::2], reply[1::2], strict=True):
            try:
                complete, folded, seen = value.split(b":")
                found[lease.decode()] = WorkerState(int(complete), int(folded), float(seen))
            except ValueError:
                warnings.warn("What the history knows of the worker %r is unreadable", lease[:100])
        return found

    # --- Front ends -----------------------------------------------------------------------------------

    async def attempts(self, filter: Filter, before: Position | None, limit: int) -> list[tuple[Position, bytes]]:
        members: list[tuple[Position, bytes]] = []
        for name in self._sorted_by(filter):
            members += await self._members(name, filter, before, limit)
        chosen = dict(sorted(members, reverse=True)[:limit])
        if not chosen:
            return []
        values = await self.server.ado(("HMGET", self._key("attempts"), *chosen.values()))
        return [(at, b"" if value is None else value) for at, value in zip(chosen, values, strict=True)]

    def _sorted_by(self, filter: Filter) -> list[str]:
        """Return the zsets in which attempts are that a filter means: the fewest that are known."""
        if filter.signatures:
            return [self._key(f"signature:{signature}") for signature in filter.signatures]
        if filter.tasks and not any("*" in task for task in filter.tasks):
            return [self._key(f"task:{task}") for task in filter.tasks]
        sample = samples_meant(filter)
        return [self._key(f"kind:{kind}") for kind in KINDS if sample in (None, kind == "sample")]

    async def _members(self, name: str, filter: Filter, before: Position | None,
                       limit: int) -> list[tuple[Position, bytes]]:  # fmt: skip
        latest = "+inf" if filter.until is None else f"({filter.until!r}"
        if before is not None and (filter.until is None or before.at < filter.until):
            latest = repr(before.at)
        since = "-inf" if filter.since is None else repr(filter.since)
        offset = 0
        while True:
            page = await self.server.ado(
                ("ZRANGE", name, latest, since, "BYSCORE", "REV", "LIMIT", offset, limit)
            )
            found = [(at, member) for member in page if (at := _position(member)) and (before is None or at < before)]
            if found or len(page) < limit:
                return found
            offset += limit

    async def count_attempts(self) -> int:
        return int(await self.server.ado(("HLEN", self._key("attempts"))))

    async def attempts_of_task(self, id: str) -> list[bytes]:
        members = await self.server.ado(("ZRANGE", self._key("ids"), f"[{id} ", f"({id}!", "BYLEX"))
        values = await self.server.ado(("HMGET", self._key("attempts"), *members)) if members else []
        return [value for value in values if value is not None]

    async def known_signatures(self, signatures: Sequence[str] | None = None) -> list[FailureSignature]:
        if signatures is None:
            return await self.latest_signatures(float("-inf"))
        return await self._with_marks(signatures)

    async def latest_signatures(self, since: float) -> list[FailureSignature]:
        names = await self.server.ado(("ZRANGE", self._key("last"), repr(since), "+inf", "BYSCORE"))
        return await self._with_marks([name.decode() for name in names])

    async def _with_marks(self, signatures: Sequence[str]) -> list[FailureSignature]:
        known = await self._signatures(signatures)
        marks = await self.server.ado(("HMGET", self._key("marks"), *known)) if known else []
        found = []
        for one, mark in zip(known.values(), marks, strict=True):
            found.append(one if mark is None else self.marked(one, mark.decode(errors="replace").split(":", 2)))
        return sorted(found, key=lambda one: one.last, reverse=True)

    async def _signatures(self, signatures: Sequence[str]) -> dict[str, FailureSignature]:
        if not signatures:
            return {}
        found = {}
        values = await self.server.ado(("HMGET", self._key("signatures"), *signatures))
        for name, value in zip(signatures, values, strict=True):
            if value is not None and (one := self.signature_of(value)) is not None:
                found[name] = one
        return found

    async def mark(self, signature: str, status: Status, by: str, now: float) -> bool:
        if not await self.server.ado(("HEXISTS", self._key("signatures"), signature)):
            return False
        await self.server.ado(("HSET", self._key("marks"), signature, f"{status}:{now!r}:{by}"))
        return True

    async def audit(self, event: Event) -> None:
        name, value, at = self._event_parts(event, new_id())
        await self.server.ado_all([("HSET", self._key("events"), name, value), ("ZADD", self._key("times"), at, name)])

    def _event_parts(self, event: Event, of: str) -> tuple[str, bytes, str]:
        return f"{of}:{event.at!r}:{event.kind}:{event.id}", self.seal(event), repr(event.at)

    async def events(self, kinds: Sequence[str] = (), since: float = 0.0, limit: int = 100,
                     id: str | None = None) -> list[Event]:  # fmt: skip
        found: list[Event] = []
        offset = 0
        while len(found) < limit:
            page = await self.server.ado(
                ("ZRANGE", self._key("times"), "+inf", repr(since), "BYSCORE", "REV", "LIMIT", offset, PRUNED)
            )
            values = await self.server.ado(("HMGET", self._key("events"), *page)) if page else []
            found += [
                event for event in self.events_of(value or b"" for value in values)
                if (not kinds or event.kind in kinds) and id in (None, event.id)
            ]  # fmt: skip
            if len(page) < PRUNED:
                break
            offset += PRUNED
        return found[:limit]

    def close(self) -> None:
        self.server.close()

    def _hash(self, key: Key) -> str:
        return self._key("unfolded") if key.lease else self._key(f"sums:{key.step}:{key.at}")

    def _key(self, name: str) -> str:
        return f"{self.server.prefix}:history:{name}"


def _field(key: Key) -> bytes:
    return msgspec.json.encode(list(key))


_read_field = msgspec.json.Decoder(Key).decode


def _rows(reply: Sequence[bytes]) -> list[Row]:
    found = []
    for field, value in zip(reply[::2], reply[1::2], strict=True):
        try:
            found.append(Row(_read_field(field), value))
        except ValueError:
            warnings.warn("A field of the history names no sums: %r", field[:100])
    return found


def _member(attempt: Attempt) -> bytes:
    return f"{attempt.id} {attempt.attempt} {float(attempt.done_at)!r}".encode()


def _position(member: bytes) -> Position | None:
    try:
        id, attempt, at = member.decode().rsplit(" ", 2)
        return Position(float(at), id, int(attempt))
    except ValueError:
        return None


def _flat(items: Iterable[Iterable[Any]]) -> list[Any]:
    return [part for item in items for part in item]
