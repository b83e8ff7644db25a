"""Settles endings: `Settler` collects and batches them, `SettlementWriter` writes one batch to broker and backend.

The pool and the receiver report endings to `Settler`. It lets `decide.py` turn each into a settlement, hands the batch
to `SettlementWriter`, tries again while a server is unavailable, logs and counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from celeriac import signals, states
from celeriac.app.app import Celeriac
from celeriac.canvas.links import fitting
from celeriac.canvas.workflows import Workflows
from celeriac.errors import AccessRefused, BackendError, BrokerError, WorkerLost
from celeriac.metrics.counts import DEAD_LETTERS, REFUSED
from celeriac.model.message import Message
from celeriac.model.outcome import Call, Outcome
from celeriac.ports.backend import Backend
from celeriac.ports.broker import Action, Broker, Delivery, Lease, Settlement
from celeriac.ports.workflows import WorkflowStore, workflow_store
from celeriac.worker.advancer import Advancer
from celeriac.worker.attempt_log import AttemptLog
from celeriac.worker.decide import Ending, add_next_steps, decide, leaves_pending, node_end
from celeriac.worker.ending_signals import send_ending_signals
from celeriac.worker.heartbeat import FIRST_PAUSE, Heartbeat, may_end, next_pause
from celeriac.worker.notifier import Notifier
from celeriac.worker.options import WorkerOptions
from celeriac.worker.recorder import Recorder
from celeriac.worker.statistics import Ended

__all__ = ["SettlementWriter", "Settler"]

log = logging.getLogger("celeriac.worker")

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
        self._writer = SettlementWriter(app.broker, app.backend, app.workflows, self.notifier)
        self.advancer = Advancer(app, lambda: heartbeat.lease, self._writer.joined, heartbeat.outages, self.notifier)
        self.attempt_log = AttemptLog(app)
        self._endings: list[Ending] = []
        self._most = BATCH  # endings in the next batch: a server that is slow cannot do any number within the time-out
        self._alone = 0  # how many of the first endings are settled one by one, because one of them cannot be
        self._states: list[Outcome] = []  # not final
        self._has_work = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []

    def ended(self, endings: Sequence[Ending]) -> None:
        """Settle these endings soon."""
        self._endings += endings
        self._has_work.set()

    def reported(self, outcome: Outcome) -> None:
        """Store a state that is not final soon."""
        self._states.append(outcome)
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
            reported, self._states = self._states[:size], self._states[size:]
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
                self._states[:0] = reported
                self._most = max(1, min(size, max(len(endings), len(reported))) // 2)
                await asyncio.sleep(pause)
                pause = next_pause(pause)
                continue
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

    def progress(self) -> asyncio.Future[None]:
        """Return a future that is done when the next batch has been settled."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    async def finished(self) -> None:
        """Return when everything is settled."""
        while self._has_work.is_set():
            await self.progress()

    async def _store(self, reported: list[Outcome]) -> None:
        """Store states. Those that cannot be stored are dropped: none of them is final."""
        try:
            await self._app.backend.store(reported)
        except Exception as error:
            if may_end(error):
                raise
            log.exception("Cannot store the states of %d tasks; they are dropped", len(reported))

    async def _settle_or_isolate(self, endings: list[Ending]) -> None:
        """Settle a batch. If it fails, and not by an outage, one delivery is at fault: find it and set it aside.

        Nothing that comes in may end this duty, or hold up other deliveries.
        """
        lease = self._heartbeat.lease
        try:
            await self._settle(lease, endings)
        except Exception as error:
            if may_end(error):
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
            if may_end(error):
                raise
            if len(endings) == 1:
                return [await self._set_aside(lease, endings[0], error)]
        return [accepted for ending in endings for accepted in await self.settle(lease, [ending])]

    async def _set_aside(self, lease: Lease, ending: Ending, error: Exception) -> bool:
        """Make a dead letter of a message that cannot be settled, with a failure as its outcome; return whether."""
        message = ending.delivery.message
        reason = f"it cannot be settled: {error}"
        log.error("%s[%s] becomes a dead letter: %s", message.task, message.id, reason, exc_info=error)
        bare = replace(message, place=None, reply_to="", link=[], link_error=[])  # any of these may be the fault
        failure = WorkerLost(f"The worker could not settle the task: {error}. The message is now a dead letter: "
                             "see `celeriac queues dead list`.")  # fmt: skip
        outcome = Outcome.failed(bare, failure, states.FAILURE, self._app.clock.now(), self._options.name)
        settlement = Settlement(delivery=ending.delivery, action=Action.BURY, outcome=outcome, reason=reason)
        try:
            (accepted,) = await self._writer.write(lease, [settlement], self._app.clock.now())
            if accepted:
                self._heartbeat.counters.add(DEAD_LETTERS, queue=message.queue, reason="unsettled")
        except Exception as second:
            if may_end(second):
                raise
            log.exception("Cannot set %s[%s] aside; the worker holds it until it stops", message.task, message.id)
            return False
        return accepted

    async def _settle(self, lease: Lease, endings: Sequence[Ending]) -> list[bool]:
        now = self._app.clock.now()
        options, keep_failed = self._options, self._keep_failed
        settlements = [
            decide(ending, now, options.max_deliveries, options.unknown_task_seconds, keep_failed) for ending in endings
        ]
        if self._app.conf.result_extended:
            settlements = [_with_call(settlement) for settlement in settlements]
        accepted = await self._writer.write(lease, settlements, now)
        if self._writer.left_pending:
            self._writer.left_pending = False
            self.advancer.wake.set()
        logs_all = log.isEnabledFor(logging.INFO)
        is_heard = signals.task_revoked.receivers or signals.task_failure.receivers
        ended: list[Ended] = []
        for ending, settlement, is_accepted in zip(endings, settlements, accepted, strict=True):
            outcome = ending.outcome or settlement.outcome
            message = ending.delivery.message
            if not is_accepted:
                log.warning("The settlement of %s[%s] is discarded: another worker now holds this message",
                            message.task, message.id)  # fmt: skip
                self._heartbeat.counters.add(REFUSED)
            elif outcome is not None:
                ended.append((message, outcome))
                if is_heard:
                    send_ending_signals(self._app, ending, outcome)
                if logs_all or outcome.state == states.FAILURE:
                    self.attempt_log.ended(message, outcome)
                    if settlement.action is Action.BURY:
                        self._heartbeat.counters.add(DEAD_LETTERS, queue=message.queue, reason=_why_buried(ending))
            elif ending.lost is not None:
                self.attempt_log.lost(message, ending.lost)
            elif ending.unknown is not None:
                self.attempt_log.unknown(message, ending.unknown)
        try:
            self.recorder.add(ended, now)
        except Exception:  # what was settled must not be settled again
            log.exception("%d attempts are missing in the statistics and the history", len(ended))
        return accepted


def _why_buried(ending: Ending) -> str:
    """Return why a message becomes a dead letter, in a word."""
    return "rejected" if ending.outcome is not None else "unknown" if ending.unknown is not None else "lost"


def _with_call(settlement: Settlement) -> Settlement:
    """Return a settlement whose outcome says what was called."""
    if settlement.outcome is None:
        return settlement
    return replace(settlement, outcome=replace(settlement.outcome, call=Call.of(settlement.delivery.message)))


class SettlementWriter:
    """Writes settlements to the servers: in one atomic step where the broker and the backend share one.

    On two servers the order is: store the outcomes, publish the follow-ups, settle with the broker. A crash in between
    repeats work and never loses it.
    """

    def __init__(self, broker: Broker, backend: Backend, workflows: Workflows,
                 notifier: Notifier | None = None) -> None:  # fmt: skip
        self._broker = broker
        self._backend = backend
        self._workflows = workflows
        self._notifier = notifier
        self.joined = broker.joins(backend)
        self.left_pending = False  # whether calls since this was reset may have left pending nodes
        self._keeps_workflows = isinstance(backend, WorkflowStore)  # otherwise nothing follows a node
        self._unsure: set[str] = set()  # tokens whose follow-ups may have been published already

    async def write(self, lease: Lease, settlements: Sequence[Settlement], now: float) -> list[bool]:
        """Write a batch. Return for each settlement whether it was accepted; False: its token was stale."""
        if self.joined:
            settlements = self._fitting(await self._with_next_steps(settlements, now))
            if any(settlement.ends_node and leaves_pending(settlement) for settlement in settlements):
                self.left_pending = True
            accepted = await lease.settle(settlements)
            self._tell(settlements)
            return accepted
        if not any(settlement.outcome is not None or settlement.follow_ups for settlement in settlements):
            return await lease.settle(settlements)
        settlements = self._fitting(settlements)
        ends = [settlement for settlement in settlements if settlement.ends_node] if self._keeps_workflows else []
        self.left_pending = self.left_pending or bool(ends)
        is_first = await workflow_store(self._backend).conclude([node_end(item) for item in ends]) if ends else []
        ending = {id(settlement) for settlement in ends}
        kept = [item for item in settlements if item.outcome is not None and id(item) not in ending]
        if kept:
            is_first += await self._backend.store([item.outcome for item in kept if item.outcome is not None])
        for settlement, first in zip([*ends, *kept], is_first, strict=True):
            if not first:  # a final outcome was stored before
                self._unsure.add(settlement.delivery.token)
        self._tell(settlements)
        following = [settlement for settlement in settlements if settlement.follow_ups]
        sent: dict[bool, list[Message]] = {False: [], True: []}
        for settlement in following:
            sent[self._may_have_been_sent(settlement.delivery)] += settlement.follow_ups
        for again, messages in sent.items():
            if messages:
                await self._broker.apublish(messages, again)
        accepted = await lease.settle([replace(settlement, outcome=None, follow_ups=()) for settlement in settlements])
        self._unsure.difference_update(settlement.delivery.token for settlement in settlements)
        return accepted

    def _fitting(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        """Return the settlements with follow-ups that workers receive."""
        largest = self._broker.codec.largest
        return [
            replace(item, follow_ups=[fitting(message, largest) for message in item.follow_ups])
            if item.follow_ups else item
            for item in settlements
        ]  # fmt: skip

    def _tell(self, settlements: Sequence[Settlement]) -> None:
        """Tell the callers where the backend cannot."""
        if self._notifier is not None and self._notifier.is_needed:
            self._notifier.stored(item.outcome for item in settlements if item.outcome is not None)

    def _may_have_been_sent(self, delivery: Delivery) -> bool:
        known = delivery.token in self._unsure or delivery.again or delivery.deliveries > 1
        self._unsure.add(delivery.token)
        return known

    async def _with_next_steps(self, settlements: Sequence[Settlement], now: float) -> list[Settlement]:
        """Add the messages of the steps that follow in workflows, so that they are sent in the step that settles.

        Loads the trees of nodes that have followers. A member of a group is only counted, which needs no tree.
        """
        workflows = [
            settlement.outcome.place.workflow
            for settlement in settlements
            if settlement.outcome is not None
            and settlement.outcome.place is not None
            and not settlement.outcome.place.alone
            and settlement.ends_node
        ]
        if not workflows:
            return list(settlements)
        trees = await self._workflows.load(workflows)
        return [add_next_steps(item, trees, now) if item.ends_node else item for item in settlements]
