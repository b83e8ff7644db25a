"""Writes the history: what the worker has counted, failures in full, a sample of successes.

`Settler` tells it what was settled. Every second it writes what is new, as all that was counted in a slot so far,
so that a write that is repeated changes nothing. It is best effort: while the history cannot be reached, everything is
kept in memory up to a bound, and then dropped and counted. Nothing it does delays settling or stops the worker.

One worker at a time also compacts and prunes the history.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from celeriac.app.app import Celeriac
from celeriac.errors import BackendError, BrokerError, Unstorable
from celeriac.metrics.counts import DROPPED
from celeriac.model.history import COUNTERS, SAMPLED, SLOT, Attempt, Batch, Event, FailureSignature, Key, Sums
from celeriac.ports.history import History, Limits
from celeriac.worker.counters import Counters
from celeriac.worker.heartbeat import FIRST_PAUSE, fault, next_pause
from celeriac.worker.options import WorkerOptions
from celeriac.worker.outages import Outages
from celeriac.worker.sampling import Sampler, attempt_of, signature_of_failure
from celeriac.worker.statistics import Ended, Group, Statistics, grouped
from celeriac.worker.watches import Watches

__all__ = ["Recorder"]

log = logging.getLogger("celeriac.worker")

WRITE = "write the history"  # the duty, for `Outages`
WRITE_SECONDS = 1.0  # from one write to the next: a worker that is killed loses what it has counted since
GATHER_SECONDS = 0.05  # after a pause in which nothing ended
COMPACT_SECONDS = 10.0
IDLE_COMPACT_SECONDS = 60.0  # of a worker that has written nothing since
PRUNE_SECONDS = 60.0
ROUNDS = 5  # steps of compaction at a time
PRUNE_ROUNDS = 30  # … of pruning: 30,000 samples, which ten workers may write from one time to the next

ROWS = 2_000  # sums in one write
BATCH = 1_000  # attempts in one write
MOST_ROWS = 20_000  # sums kept in memory
MOST_SLOTS = 360  # … from so many slots: an hour
MOST_ATTEMPTS = 10_000  # kept in memory
MOST_SIGNATURES = 1_000


class Recorder:
    """Records what ended. Without a history, it only counts, for `statistics`."""

    def __init__(self, app: Celeriac, options: WorkerOptions, outages: Outages | None = None,
                 counters: Counters | None = None) -> None:  # fmt: skip
        self.history: History | None = app.history
        self.statistics = Statistics(keeps_slots=self.history is not None)
        self.counters = counters or Counters()
        self.watches = Watches(app, options.name)
        self.failures = 0  # batches with failures that were written: `Mailer` looks when there are more
        self._app = app
        self._worker = options.name
        self._release: str = app.conf.release or ""
        self._lease = f"{options.name}:{os.urandom(6).hex()}"
        self._sampler = Sampler(app.conf.history == "all")
        samples = app.conf.history_expires if app.conf.history == "all" else min(86_400.0, app.conf.history_expires)
        self._limits = Limits(failures=app.conf.history_expires, samples=samples,
                              attempts=app.conf.history_max_attempts)  # fmt: skip
        self._keeps_messages: bool = app.conf.task_keep_failed
        self._attempts: list[Attempt] = []
        self._signatures: dict[str, FailureSignature] = {}
        self._events: list[Event] = []
        self._changed: set[int] = set()  # slots with counts that are not written
        self._written_to = 0  # the last slot that was written as final
        self._failing_since: float | None = None  # monotonic
        self._outages = outages if app.conf.history_url is None else None  # of the server that all duties use
        self._has_work = asyncio.Event()
        self._is_asked = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []  # of `written`

    # --- What ends ------------------------------------------------------------------------------------

    def add(self, ended: Sequence[Ended], now: float) -> None:
        """Count attempts whose settlement was accepted, and choose those that are kept."""
        if not ended:
            return
        at, slot = self.statistics.slot(now)
        groups = grouped(ended)
        if self.watches.is_watched:
            self.watches.ended(groups)
        for group, some in groups.items():
            runtimes = self.statistics.add(some, slot, group)
            if self.history is not None:
                self._keep(group, some, runtimes, now)
        if self.history is not None:
            self._changed.add(at)
            self._has_work.set()

    def _keep(self, group: Group, ended: Sequence[Ended], runtimes: Sequence[float], now: float) -> None:
        if group[2] in SAMPLED:
            chosen = self._sampler.successes(group[0], ended, runtimes, now)
            if chosen:
                self._attempts += [attempt_of(pair, share) for pair, share in chosen]
        else:
            chosen_failures = self._sampler.failures(group, ended, now)
            self._attempts += [attempt_of(pair, keep=self._keeps_messages, release=self._release)
                               for pair in chosen_failures]
            if group[4]:
                self._know(group[4], ended)
        surplus = len(self._attempts) - MOST_ATTEMPTS
        if surplus > 0:
            del self._attempts[:surplus]
            self.counters.add(DROPPED, surplus, reason="attempts")

    def _know(self, signature: str, ended: Sequence[Ended]) -> None:
        known = self._signatures.get(signature)
        for _, outcome in (ended[0], ended[-1]):
            new = signature_of_failure(outcome, self._worker, self._release)
            if new is not None:
                known = new if known is None else known.merged(new)
        if known is not None and (signature in self._signatures or len(self._signatures) < MOST_SIGNATURES):
            self._signatures[signature] = known

    # --- Writing --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write, compact and prune until cancelled."""
        if self.history is None:
            await asyncio.get_running_loop().create_future()  # nothing to do, until cancelled
        self._events.append(self._life("worker.started"))
        pause, compacted, pruned = FIRST_PAUSE, 0.0, 0.0
        wrote = True
        while True:
            begun = time.monotonic()
            waiters, self._waiters = self._waiters, []
            self._has_work.clear()  # now: what ends during a write is written a second later
            self._is_asked.clear()
            try:
                while await self.write():
                    wrote = True
                _answer(waiters)
                if begun - compacted >= (COMPACT_SECONDS if wrote else IDLE_COMPACT_SECONDS):
                    compacted, wrote = begun, False
                    await self._compact()
                if begun - pruned >= PRUNE_SECONDS:
                    pruned = begun
                    await self._prune()
                self._worked()
                pause = FIRST_PAUSE
            except Unstorable as error:
                _answer(waiters, error)
                log.error("The history cannot keep what was to be written, and it is dropped: %s", error,
                          exc_info=fault(error))  # fmt: skip
                self._bound(0, 0)
            except (BrokerError, BackendError) as error:
                _answer(waiters, error)
                self._failed(error)
                self._bound()
                await asyncio.sleep(pause)
                pause = next_pause(pause)
                continue
            except Exception as error:
                _answer(waiters, error)
                log.exception("Cannot write the history; what was to be written is dropped")
                self._bound(0, 0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SLOT):
                    await self._has_work.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(GATHER_SECONDS, begun + WRITE_SECONDS - time.monotonic())):
                    await self._is_asked.wait()

    async def written(self) -> None:
        """Have all that has ended so far written now; return when it is. Raises `CeleriacError` if it could not be."""
        if self.history is None:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._has_work.set()
        self._is_asked.set()
        await waiter

    async def finish(self, seconds: float) -> None:
        """Write what is left, as far as that is possible in so many seconds."""
        if self.history is None:
            return
        self._events.append(self._life("worker.stopped"))
        try:
            async with asyncio.timeout(seconds):
                while await self.write(last=True):
                    pass
        except (TimeoutError, BrokerError, BackendError) as error:
            log.warning("The last of the history could not be written: %s", str(error) or "it takes too long")
        except Exception:  # the worker has more to do before it ends
            log.exception("The last of the history could not be written")

    async def write(self, last: bool = False) -> bool:
        """Write what is new; return whether there is more. With `last`, nothing is counted after this."""
        if self.history is None:
            return False
        now = self._app.clock.now()
        batch = self._batch(now, last)
        if not batch:  # a slot without counts need not be final for anybody
            return False
        written = {key.at for key in batch.sums}
        self._changed -= written
        del self._attempts[: len(batch.attempts)], self._events[: len(batch.events)]
        self._signatures = {}
        try:
            await self.history.record(batch, now)
        except BaseException:
            self._changed |= written
            self._attempts[:0], self._events[:0] = batch.attempts, batch.events
            for one in batch.signatures:
                later = self._signatures.get(one.signature)
                self._signatures[one.signature] = one if later is None else one.merged(later)
            raise
        self._written_to = batch.complete
        self.failures += bool(batch.signatures)
        for at in [at for at in self.statistics.slots if at <= batch.complete]:
            self._sampler.learn(self.statistics.slots[at])
            self.statistics.close(at)
            self.counters.close(at)
        return bool(self._attempts) or any(at <= now - SLOT for at in self.statistics.slots)

    def _batch(self, now: float, last: bool) -> Batch:
        """Return what is written next: the oldest slots, as far as they have changed or are final now."""
        current = int(now) // SLOT * SLOT
        complete = current if last else current - SLOT
        if self.counters.new:
            at, _ = self.statistics.slot(now)
            self.counters.assign(at)
            self._changed.add(at)
        sums: dict[Key, Sums] = {}
        for at, counted in sorted(self.statistics.slots.items()):
            if at in self._changed or at <= complete:
                if sums and len(sums) + len(counted) > ROWS:
                    complete = min(complete, at - SLOT)
                    break
                sums |= {Key(SLOT, at, self._lease, *group): some.sums() for group, some in counted.items()}
                sums |= {Key(COUNTERS, at, self._lease, one.task, one.queue, one.name, one.reason): Sums(count)
                         for one, count in self.counters.slots.get(at, {}).items()}  # fmt: skip
        return Batch(lease=self._lease, complete=max(complete, self._written_to), sums=sums,
                     attempts=self._attempts[:BATCH], signatures=[*self._signatures.values()],
                     events=self._events[:BATCH])  # fmt: skip

    def _bound(self, most_slots: int = MOST_SLOTS, most_rows: int = MOST_ROWS) -> None:
        """Drop the oldest slots if there are too many in memory. (Attempts are bounded when they are added.)"""
        slots = self.statistics.slots
        rows = sum(len(counted) for counted in slots.values())
        for at in sorted(slots):
            if len(slots) <= most_slots and rows <= most_rows:
                break
            rows -= len(slots[at])
            count = sum(gathered.sums().n for gathered in slots[at].values())
            self.statistics.close(at)
            self.counters.close(at)
            if count:
                self.counters.add(DROPPED, count, reason="counts")
            self._changed.discard(at)
        if not most_slots:
            if self._attempts:
                self.counters.add(DROPPED, len(self._attempts), reason="attempts")
            self._attempts.clear()
            self._events.clear()
            self._signatures.clear()

    async def _compact(self) -> None:
        if self.history is not None and await self._is_mine("compact", COMPACT_SECONDS - 1):
            await self._repeat("compact", self.history.compact, ROUNDS)

    async def _prune(self) -> None:
        if self.history is not None and await self._is_mine("prune", PRUNE_SECONDS - 1):
            await self._repeat("prune", partial(self.history.prune, self._limits), PRUNE_ROUNDS)

    async def _repeat(self, what: str, step: Callable[[float], Awaitable[int]], rounds: int) -> None:
        """Do steps until nothing is left to do, some at most. What is stored there must not end the duty."""
        try:
            for _ in range(rounds):
                if not await step(self._app.clock.now()):
                    break
        except (BrokerError, BackendError):
            raise
        except Exception:
            log.exception("Cannot %s the history", what)

    async def _is_mine(self, what: str, seconds: float) -> bool:
        """Return whether this worker does something now, and no other."""
        assert self.history is not None
        return await self.history.claims().claim(
            f"history:{what}", self._worker.encode(), seconds, self._app.clock.now()
        ) is None

    @property
    def dropped(self) -> int:
        """How many attempts are missing in the history: in full, or even their counts."""
        return sum(count for one, count in self.counters.ever.items() if one.name == DROPPED)

    def _life(self, kind: str) -> Event:
        data = {"dropped": self.dropped} if self.dropped else {}
        return Event(at=self._app.clock.now(), kind=kind, id=self._worker, by=self._worker, data=data)

    # --- Outages --------------------------------------------------------------------------------------

    def _failed(self, error: BrokerError | BackendError) -> None:
        if self._outages is not None:
            self._outages.failed(WRITE, error)
        elif self._failing_since is None:
            self._failing_since = time.monotonic()
            log.warning("The history cannot be written, the worker keeps trying: %s", error)

    def _worked(self) -> None:
        if self._outages is not None:
            self._outages.worked(WRITE)
        elif self._failing_since is not None:
            log.warning("The history is written again after %.1f s%s", time.monotonic() - self._failing_since,
                        f"; {self.dropped:,} attempts were dropped" if self.dropped else "")  # fmt: skip
            self._failing_since = None


def _answer(waiters: Sequence[asyncio.Future[None]], failure: Exception | None = None) -> None:
    """Let those go on who wait until something is written, if they have no answer yet."""
    for waiter in waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)
