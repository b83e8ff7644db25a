"""Settles endings in batches.

The pool and the receiver report endings to `Settler`. It lets `decide.py` turn each into a settlement, hands the batch
to `SettlementWriter`, tries again while a server is unavailable, logs and counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import islice

from msgspec.structs import replace

from celeriac import signals, states
from celeriac.app.app import Celeriac
from celeriac.app.notifier import Notifier
from celeriac.errors import AccessRefused, BackendError, BrokerError, WorkerLost
from celeriac.metrics.counts import DEAD_LETTERS, REFUSED
from celeriac.model.outcome import Call, Outcome
from celeriac.ports.broker import Action, Lease, Settlement
from celeriac.worker.advancer import Advancer
from celeriac.worker.attempt_log import AttemptLog
from celeriac.worker.decide import Ending, decide
from celeriac.worker.ending_signals import send_ending_signals
from celeriac.worker.heartbeat import FIRST_PAUSE, Heartbeat, fault, may_end, next_pause
from celeriac.worker.options import WorkerOptions
from celeriac.worker.recorder import Recorder
from celeriac.worker.settlement_writer import SettlementWriter
from celeriac.worker.statistics import Ended

__all__ = ["Settler"]

log = logging.getLogger("celeriac.worker")

FAILURE = states.FAILURE
BATCH = 512
MOST_WAITING = 4 * BATCH  # endings; with more, the worker receives nothing until some are settled
MORE = 4  # endings in the next batch, after one that was settled; after a failure, half as many


class Settler:
    """Collects endings and settles them in batches. Keeps what the servers do not accept, and tries again."""

    def __init__(self, app: Celeriac, options: WorkerOptions, heartbeat: Heartbeat) -> None:
        self.recorder = Recorder(app, options, heartbeat.outages, heartbeat.counters)
        self._keep_failed = app.conf.task_keep_failed and not app.sends_outcomes
        self._app = app
        self._options = options
        self._heartbeat = heartbeat
        self.notifier = Notifier(app.broker, app.backend)
        self._writer = SettlementWriter(app.broker, app.backend, lambda: app.workflows, self.notifier)
        self.advancer = Advancer(app, lambda: heartbeat.lease, self._writer.joined, heartbeat.outages, self.notifier)
        self.attempt_log = AttemptLog(app)
        self._endings: list[Ending] = []
        self._under_way: list[Ending] = []  # the batch that is being settled
        self._most = BATCH  # endings in the next batch: a server that is slow cannot do any number within the time-out
        self._alone = 0  # how many of the first endings are settled one by one, because one of them cannot be
        self._states: dict[str, Outcome] = {}  # by id: the latest of a task, which is not final
        self._extended = frozenset(name for name, task in app.tasks.items() if task.options.get("result_extended"))
        self._has_work = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []

    def ended(self, endings: Sequence[Ending]) -> None:
        """Settle these endings soon."""
        self._endings += endings
        self._has_work.set()

    def reported(self, outcome: Outcome) -> None:
        """Store a state that is not final soon, unless a later one of the task comes before that."""
        self._states[outcome.id] = outcome
        self._has_work.set()

    def is_crowded(self) -> bool:
        """Return whether so many endings wait that no more tasks should be started: a kill would repeat all of them."""
        return len(self._endings) > MOST_WAITING

    async def run(self, settled: Callable[[], None]) -> None:
        """Settle until cancelled; call `settled` after each batch."""
        pause = FIRST_PAUSE
        while True:
            await self._has_work.wait()
            size = 1 if self._alone else self._most
            endings, self._endings = self._endings[:size], self._endings[size:]
            reported = self._take_states(size) if self._states else []
            self._under_way = endings
            try:
                if reported:
                    await self._store(reported)
                if endings:
                    await self._settle_or_isolate(endings)
            except AccessRefused:
                raise
            except (BrokerError, BackendError) as error:
                self._heartbeat.outages.failed("settle", error)
                self._endings[:0] = endings
                self._under_way = []
                self._states = {one.id: one for one in reported} | self._states  # what has come meanwhile is later
                self._most = max(1, min(size, max(len(endings), len(reported))) // 2)
                await asyncio.sleep(pause)
                pause = next_pause(pause)
                continue
            self._under_way = []
            self._heartbeat.outages.worked("settle")
            pause = FIRST_PAUSE
            self._most = min(self._most + MORE, BATCH)
            self._alone = max(0, self._alone - len(endings))
            if not self._endings and not self._states:
                self._has_work.clear()
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            settled()

    def unsettled(self) -> int:
        """Return how many endings no server has confirmed yet."""
        return len(self._under_way) + len(self._endings)

    def has_unsettled_ends(self) -> bool:
        """Return whether attempts are among them that have run."""
        return any(not one.given_back and one.unknown is None for one in (*self._under_way, *self._endings))

    async def give_back(self) -> None:
        """Settle what did not run or may run again, which needs no backend; after `run` was cancelled.

        Raises `BrokerError`.
        """
        left = self._under_way + self._endings
        returned = [ending for ending in left if ending.given_back]
        if returned:
            await self.settle(self._heartbeat.lease, returned)
        self._under_way, self._endings = [], [ending for ending in left if not ending.given_back]

    def progress(self) -> asyncio.Future[None]:
        """Return a future that is done when the next batch has been settled."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    async def finished(self) -> None:
        """Return when everything is settled."""
        while self._has_work.is_set():
            await self.progress()

    def _take_states(self, most: int) -> list[Outcome]:
        """Remove and return the states that have waited longest."""
        return [self._states.pop(id) for id in list(islice(self._states, most))]

    async def _store(self, reported: list[Outcome]) -> None:
        """Store states. Those that cannot be stored are dropped: none of them is final."""
        try:
            await self._app.backend.store(reported)
        except Exception as error:
            if may_end(error):
                raise
            log.error("Cannot store the states of %d tasks; they are dropped: %s", len(reported), error,
                      exc_info=fault(error))  # fmt: skip

    async def _settle_or_isolate(self, endings: list[Ending]) -> None:
        """Settle a batch. If it fails, and not by an outage, one delivery is at fault: find it and set it aside.

        Nothing that comes in may end this duty, or hold up other deliveries.
        """
        lease = self._heartbeat.lease
        try:
            await self._settle(lease, endings)
        except Exception as error:
            if _is_outage(error):
                raise
            if len(endings) == 1:
                await self._set_aside(lease, endings[0], error)
            else:
                log.warning("Cannot settle %d deliveries together, settling them one by one: %s", len(endings), error)
                self._endings[:0] = endings
                self._alone = len(endings) + self._alone
                endings.clear()

    async def settle(self, lease: Lease, endings: Sequence[Ending]) -> list[bool]:
        """Settle endings under any lease now; return which were accepted. False: the token was stale.

        Raises `BrokerError` or `BackendError` while a server is away. It may be repeated then.
        """
        try:
            return await self._settle(lease, endings)
        except Exception as error:
            if _is_outage(error):
                raise
            if len(endings) == 1:
                return [await self._set_aside(lease, endings[0], error)]
        return [accepted for ending in endings for accepted in await self.settle(lease, [ending])]

    async def _set_aside(self, lease: Lease, ending: Ending, error: Exception) -> bool:
        """Make a dead letter of a message that cannot be settled, with a failure as its outcome; return whether.

        Raises `AccessRefused` if the worker may not do that either: then it is not about this message.
        """
        message = ending.delivery.message
        reason = f"it cannot be settled: {error}"
        log.error("%s[%s] becomes a dead letter: %s", message.task, message.id, reason, exc_info=fault(error))
        failure = WorkerLost(f"The worker could not settle the task: {error}. The message is now a dead letter: "
                             "see `celeriac queues dead list`.")  # fmt: skip
        faults: list[Exception] = []
        for address in dict.fromkeys((message.reply_to, "")):  # any of these may be the fault, but seldom the address
            bare = replace(message, place=None, reply_to=address, link=[], link_error=[])
            outcome = Outcome.failed(bare, failure, states.FAILURE, self._app.clock.now(), self._options.name)
            settlement = Settlement(delivery=ending.delivery, action=Action.BURY, outcome=outcome, reason=reason)
            try:
                (accepted,) = await self._writer.write(lease, [settlement], self._app.clock.now())
            except Exception as second:
                if may_end(second):
                    raise
                faults.append(second)
            else:
                if accepted:
                    self._heartbeat.counters.add(DEAD_LETTERS, queue=message.queue, reason="unsettled")
                return accepted
        log.error("Cannot set %s[%s] aside; the worker holds it until it stops: %s", message.task, message.id,
                  faults[-1], exc_info=fault(faults[-1]))  # fmt: skip
        return False

    def _with_call(self, settlement: Settlement) -> Settlement:
        """Return a settlement whose outcome says what was called, if that is wanted."""
        message = settlement.delivery.message
        if settlement.outcome is None or not (self._app.conf.result_extended or message.task in self._extended):
            return settlement
        return replace(settlement, outcome=replace(settlement.outcome, call=Call.of(message)))

    async def _settle(self, lease: Lease, endings: Sequence[Ending]) -> list[bool]:
        now = self._app.clock.now()
        options, keep_failed = self._options, self._keep_failed
        settlements = [
            decide(ending, now, options.max_deliveries, options.unknown_task_seconds, keep_failed) for ending in endings
        ]
        if self._app.conf.result_extended or self._extended:
            settlements = [self._with_call(settlement) for settlement in settlements]
        accepted = await self._writer.write(lease, settlements, now)
        if self._writer.left_pending:
            self._writer.left_pending = False
            self.advancer.wake.set()
        tells_all = log.isEnabledFor(logging.INFO)
        is_heard = bool(signals.task_revoked.receivers or signals.task_failure.receivers)
        ended: list[Ended] = []
        for ending, settlement, is_accepted in zip(endings, settlements, accepted, strict=True):
            outcome = ending.outcome or settlement.outcome
            try:  # what was settled must not be settled again, whatever happens here
                if is_accepted and outcome is not None:
                    ended.append((ending.delivery.message, outcome))
                    if is_heard:
                        send_ending_signals(self._app, ending, outcome)
                    if tells_all or outcome.state == FAILURE:
                        self._tell_ended(ending, settlement, outcome)
                else:
                    self._tell_open(ending, is_accepted)
            except Exception:
                message = ending.delivery.message
                log.exception("Cannot tell how %s[%s] ended; it is settled", message.task, message.id)
        try:
            self.recorder.add(ended, now)
        except Exception:
            log.exception("%d attempts are missing in the statistics and the history", len(ended))
        return accepted

    def _tell_ended(self, ending: Ending, settlement: Settlement, outcome: Outcome) -> None:
        message = ending.delivery.message
        self.attempt_log.ended(message, outcome)
        if settlement.action is Action.BURY:
            self._heartbeat.counters.add(DEAD_LETTERS, queue=message.queue, reason=_why_buried(ending))

    def _tell_open(self, ending: Ending, is_accepted: bool) -> None:
        """Tell of a delivery that was settled without an outcome, or that could not be settled."""
        message = ending.delivery.message
        if not is_accepted:
            log.warning("The settlement of %s[%s] is discarded: another worker now holds this message",
                        message.task, message.id)  # fmt: skip
            self._heartbeat.counters.add(REFUSED)
        elif ending.lost is not None:
            self.attempt_log.lost(message, ending.lost)
        elif ending.unknown is not None:
            self.attempt_log.unknown(message, ending.unknown)


def _is_outage(error: Exception) -> bool:
    """Return whether all settling fails for now, rather than that of one delivery.

    A right may be missing for what follows one delivery alone, such as a queue that this worker may not write to.
    """
    return may_end(error) and not isinstance(error, AccessRefused)


def _why_buried(ending: Ending) -> str:
    """Return why a message becomes a dead letter, in a word."""
    return "rejected" if ending.outcome is not None else "unknown" if ending.unknown is not None else "lost"
