"""The scheduler: sends what entries of the store of schedules say, each tick once, with any number of schedulers.

    due      the store gives the entries that are due, and the time by its clock
    decide   what each of them sends, and what becomes of it; pure (decide.py)
    send     compare-and-set replaces each entry, and publishes in the same step

If broker and store are two servers, the last step is three: claim the entry, publish, confirm. A scheduler that is
killed in between leaves a claim. After `CLAIM_SECONDS` another one decides again by the same instant, and sends the
same ids. All these messages are marked as possibly sent before, the first ones too: a scheduler that was frozen may
publish long after another has done so. Workers look whether a marked message has ended.

A scheduler keeps nothing in memory that matters: it may be killed at any time, and started anywhere. It runs by itself
(`celeriac beat`), in workers (`celeriac worker --beat`) or in any process (`app.beat()`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zlib
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace

from celeriac import signals
from celeriac.beat.decide import Decision, decide
from celeriac.beat.declared import Declared
from celeriac.beat.definition import Definition, definition_of
from celeriac.beat.sync import Sync
from celeriac.beat.template import Filled
from celeriac.errors import BackendError, BackendUnavailable, BrokerError, BrokerUnavailable, CeleriacError
from celeriac.ports.abilities import Ability
from celeriac.ports.schedules import Change, Entry, ScheduleStore, schedule_store
from celeriac.ports.workflows import workflow_store
from celeriac.schedules.moments import iso
from celeriac.schedules.ticks import jitter
from celeriac.tasks.protocols import App

__all__ = ["Scheduler"]

log = logging.getLogger("celeriac.beat")

BATCH = 500  # entries that are dealt with in one step
LONGEST_SLEEP = 1.0  # seconds; edits are in force after this
SPREAD = 0.02  # seconds; schedulers wake up so far apart, so that one of them usually does all the work
MESSAGES = 5_000  # that are sent in one step, unless one entry has more
CLAIM_SECONDS = 30.0
POSTPONED = 60.0  # seconds, after which an entry that the broker has refused is tried again
LEAVE_SECONDS = 1.0  # for the last word of a scheduler that is stopped
PAUSES = (0.1, 5.0)  # seconds between attempts while a server is away: the first, the longest


class _Work(NamedTuple):
    """An entry that is due, and what was decided about it."""

    entry: Entry
    decision: Decision
    filled: list[Filled]  # what is sent, by tick
    cancelled: list[str]  # ids of tasks that are to be revoked first, unless they have ended

    @property
    def change(self) -> Change:
        """The change that carries it out."""
        ends = self.filled[-1].ends if self.filled else []
        after = replace(self.decision.after, last_id=ends[0]) if ends else self.decision.after
        return Change(
            before=self.entry, after=after,
            messages=[message for filled in self.filled for message in filled.messages],
            plans=[filled.plan for filled in self.filled if filled.plan is not None],
        )  # fmt: skip


class Scheduler:
    """One scheduler of an app.

    `sync` brings what the app declares into the store, before the first tick is sent.
    """

    def __init__(self, app: App, name: str, declared: Declared) -> None:
        self.app = app
        self.name = name
        self.sync = Sync(declared)
        self._batch = BATCH  # 1 after the broker has refused something, until it is known what
        self.started = asyncio.Event()  # set after the first look into the store
        self._stopping = asyncio.Event()
        self._away_since = 0.0  # monotonic; 0: no server is away
        self._store: ScheduleStore | None = None
        self._offset = zlib.crc32(name.encode()) % 1000 / 1000 * SPREAD

    async def run(self) -> None:
        """Send until stopped. While a server is away, try again: what is missed meanwhile is due when it is back.

        Raises `BackendError` if nothing keeps schedules, and `ImproperlyConfigured` for what cannot be declared.
        """
        store = self._store = schedule_store(self.app.broker, self.app.backend)
        try:
            await self._run()
        finally:
            if self.started.is_set() and not self._away_since:
                with contextlib.suppress(BrokerError, BackendError, TimeoutError):
                    async with asyncio.timeout(LEAVE_SECONDS):
                        await self.sync.leave(store, (await store.due(1)).now)

    async def _run(self) -> None:
        pause, longest = PAUSES
        while not self._stopping.is_set():
            try:
                wait = await self.turn()
            except (BrokerError, BackendError) as error:
                if not self._away_since:
                    self._away_since = time.monotonic()
                    log.warning("Schedules wait for a server: %s", error)
                await self._sleep(pause)
                pause = min(longest, pause * 2)
                continue
            if self._away_since:
                log.warning("The server is back after %.1f s", time.monotonic() - self._away_since)
                self.sync.after_outage()
            pause, self._away_since = PAUSES[0], 0.0
            if not self.started.is_set():
                self.started.set()
                signals.beat_init.send(self)
            await self._sleep(wait)

    def stop(self) -> None:
        """End `run`, once it has sent what it is about to send."""
        self._stopping.set()

    async def _sleep(self, seconds: float) -> None:
        """Sleep, unless stopped meanwhile."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def turn(self) -> float:
        """Deal with the entries that are due now; return after how many seconds there may be more."""
        store = self._store = self._store or schedule_store(self.app.broker, self.app.backend)
        batch = self._batch
        found = await store.due(batch)
        if await self.sync.turn(store, found.now):
            found = await store.due(batch)
        if found.entries:
            await self._deal_with(store, found.entries, found.now)
        if len(found.entries) == batch or self._batch < batch:
            return 0.0
        if found.soonest is None:
            return LONGEST_SLEEP
        return min(LONGEST_SLEEP, max(0.0, (found.soonest - found.now) / 1000) + self._offset)

    async def _deal_with(self, store: ScheduleStore, entries: Sequence[Entry], now: int) -> None:
        running = await self._running(entries, now)
        work: list[_Work] = []
        messages = 0
        for entry in entries:
            work.append(self._decided(entry, now, entry.name in running))
            messages += sum(len(filled.messages) for filled in work[-1].filled)
            if messages >= MESSAGES:  # after a long time without schedulers
                await self._carry_out(store, work, now)
                work, messages = [], 0
        if work:
            await self._carry_out(store, work, now)

    async def _carry_out(self, store: ScheduleStore, work: Sequence[_Work], now: int) -> None:
        cancelled = [id for item in work for id in item.cancelled]
        if cancelled:
            found = await self.app.backend.afetch(cancelled)
            left = [id for id in cancelled if id not in found or not found[id].ready]
            await self.app.control.arevoke(left, terminate=True)
        try:
            done = await (self._change if store.publishes else self._send)(store, work, now)
        except (BrokerUnavailable, BackendError):
            raise
        except CeleriacError as error:
            self._batch = 1
            if len(work) == 1:
                entry = work[0].entry
                log.error("The broker refuses what the schedule %s sends; it is tried again in %g s: %s",
                          entry.name, POSTPONED, error)  # fmt: skip
                await store.change([Change(before=entry, after=replace(entry, next_at=_postponed(now)))])
            return
        self._batch = min(BATCH, self._batch * 2)
        for item, good in zip(work, done, strict=True):
            if good:
                self._tell(item)

    def _decided(self, entry: Entry, now: int, runs: bool) -> _Work:
        """Decide about an entry. One that cannot be sent is not looked at any more, and holds up no other."""
        try:
            definition = definition_of(entry)
            decision = decide(entry, definition, now, runs)
            filled = [self._filled(entry, definition, tick, now) for tick in decision.ticks]
            cancelled: list[str] = []
            if decision.cancels and entry.last_at is not None:
                cancelled = definition.what.steps_at(entry.salt, entry.last_at)
        except (ValueError, CeleriacError) as error:
            log.error("The schedule %s cannot be sent, and does not run until it is changed: %s", entry.name, error)
            return _Work(entry, Decision(replace(entry, next_at=None)), [], [])
        return _Work(entry, decision, filled, cancelled)

    def _filled(self, entry: Entry, definition: Definition, tick: int, now: int) -> Filled:
        delay = jitter(entry.name, tick, definition.jitter) / 1000 if definition.jitter else 0.0
        return definition.what.fill(entry.salt, tick, now / 1000, delay, self.app.backend.codec)

    async def _running(self, entries: Sequence[Entry], now: int) -> set[str]:
        """Return the names of entries that mind overlaps, and of which what was sent last has not ended."""
        ends: dict[str, list[str]] = {}
        old: list[str] = []  # ids of which an outcome would not be kept any more
        expires = self.app.conf.result_expires
        for entry in entries:
            try:
                definition = definition_of(entry)
            except ValueError:
                continue
            limit = definition.overlap_timeout
            if definition.overlap == "allow" or entry.last_at is None or (
                limit is not None and now - entry.last_at > limit
            ):
                continue
            ends[entry.name] = _last_ends(entry, definition)
            if limit is None and expires and now - entry.last_at > expires * 1000:
                old += ends[entry.name]
        if not ends:
            return set()
        found = await self.app.backend.afetch([id for ids in ends.values() for id in ids])
        ended = {id for id, outcome in found.items() if outcome.ready}
        ended |= await self._not_held([id for id in old if id not in found])
        return {name for name, ids in ends.items() if not ended.issuperset(ids)}

    async def _not_held(self, ids: Sequence[str]) -> set[str]:
        """Return the ids of which the broker holds no message, as far as it can tell."""
        held: Collection[str] = ()
        if ids and self.app.broker.can(Ability.KNOW_IDS):
            held = await self.app.broker.operations().find(ids)
        return {id for id in ids if id not in held}

    def _tell(self, item: _Work) -> None:
        """Log what was sent and what was left out, and send the signals."""
        name, decision = item.entry.name, item.decision
        logs = log.isEnabledFor(logging.INFO)
        for tick, filled in zip(decision.ticks, item.filled, strict=True):
            if logs:
                log.info("The schedule %s has sent its tick of %s: %s", name, iso(tick), filled.messages[0].id,
                         extra={"event_name": "schedule.sent"})  # fmt: skip
            if signals.schedule_sent.receivers:
                ids = [message.id for message in filled.messages]
                signals.schedule_sent.send(self, name=name, tick=_instant(tick), ids=ids)
        for count, why, signal in (
            (decision.missed, "they were found late", signals.schedule_missed),
            (decision.skipped, "what it sent last has not ended", signals.schedule_skipped),
        ):
            if count:
                log.warning("The schedule %s leaves out %d ticks: %s", name, count, why,
                            extra={"event_name": "schedule.left_out"})  # fmt: skip
                signal.send(self, name=name, count=count)

    async def _change(self, store: ScheduleStore, work: Sequence[_Work], now: int) -> list[bool]:
        """Replace the entries and publish, in one step. Return what was done by this scheduler."""
        changes = [item.change for item in work]
        if not self.app.broker.joins(self.app.backend):  # which keeps the workflows
            await self._plant(changes)
            changes = [replace(change, plans=()) for change in changes]
        return await store.change(changes)

    async def _send(self, store: ScheduleStore, work: Sequence[_Work], now: int) -> list[bool]:
        """Claim, publish, confirm: where the broker does not keep the schedules. Return which were confirmed."""
        until = now + int(CLAIM_SECONDS * 1000)
        claimed = await store.change([_claim(item, now, until) if item.filled else item.change for item in work])
        mine = [item for item, good in zip(work, claimed, strict=True) if good and item.filled]
        taken_over = [item.entry.name for item in mine if item.entry.claimed_at is not None]
        if taken_over:
            log.warning("Takes over %d claims that were not confirmed: %s …", len(taken_over), taken_over[0])
        changes = [item.change for item in mine]
        held = [replace(_claim(item, now, until).after, revision=item.entry.revision + 1) for item in mine]
        try:
            await self._plant(changes)
            messages = [message for change in changes for message in change.messages]
            if messages:
                await self.app.broker.apublish(messages, True)
        except (CeleriacError, asyncio.CancelledError) as error:
            # Others need not wait for the end of the claim. What was sent all the same has the same ids.
            is_away = isinstance(error, BrokerUnavailable | BackendUnavailable | asyncio.CancelledError)
            again = now if is_away or len(mine) > 1 else _postponed(now)  # what is refused alone is refused again
            await store.change([Change(before=entry, after=replace(entry, next_at=again)) for entry in held])
            raise
        confirmed = await store.change([
            replace(change, before=entry, messages=(), plans=())
            for entry, change in zip(held, changes, strict=True)
        ])  # fmt: skip
        names = {entry.name for entry, good in zip(held, confirmed, strict=True) if good}
        return [
            good and (not item.filled or item.entry.name in names) for item, good in zip(work, claimed, strict=True)
        ]

    async def _plant(self, changes: Sequence[Change]) -> None:
        """Store workflows. Another scheduler may have stored the same, and some of their tasks may have ended."""
        for plan in [plan for change in changes for plan in change.plans]:
            await workflow_store(self.app.backend).aplant(plan, again=True)


def _claim(item: _Work, now: int, until: int) -> Change:
    entry = item.entry
    at = now if entry.claimed_at is None else entry.claimed_at
    return Change(before=entry, after=replace(entry, next_at=until, claimed_at=at))


def _postponed(now: int) -> int:
    return now + int(POSTPONED * 1000)


def _instant(tick: int) -> datetime:
    return datetime.fromtimestamp(tick / 1000, UTC)


def _last_ends(entry: Entry, definition: Definition) -> list[str]:
    return definition.what.ends_at(entry.salt, entry.last_at) if entry.last_at is not None else []
