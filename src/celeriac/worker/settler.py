"""The duty of settling: takes what has ended, in batches, down the one road (`settle.py`), and keeps the books."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.errors import BackendError, BrokerError
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Lease
from celeriac.worker.advancer import Advancer
from celeriac.worker.decide import Ending, SettlementWriter, decide
from celeriac.worker.heartbeat import FIRST_PAUSE, longer
from celeriac.worker.options import WorkerOptions
from celeriac.worker.statistics import Statistics

__all__ = ["Settler"]

log = logging.getLogger("celeriac.worker")

BATCH = 512


class Settler:
    """Settles until it is stopped. What the broker does not take for now is kept, and tried again."""

    def __init__(self, app: Celeriac, options: WorkerOptions, lease: Callable[[], Lease],
                 settled: Callable[[], None]) -> None:  # fmt: skip
        self.statistics = Statistics()
        self._app = app
        self._options = options
        self._lease = lease
        self._tell_settled = settled
        self._settler = SettlementWriter(app.broker, app.backend, app.workflows)
        self.advancing = Advancer(app, lease, self._settler.joined)
        self._endings: list[Ending] = []
        self._tidings: list[Outcome] = []
        self._something = asyncio.Event()
        self._watchers: list[asyncio.Future[None]] = []

    def ended(self, endings: Sequence[Ending]) -> None:
        """Take note of endings."""
        self._endings += endings
        self._something.set()

    def told(self, outcome: Outcome) -> None:
        """Take note of a state that is not final."""
        self._tidings.append(outcome)
        self._something.set()

    async def run(self) -> None:
        """Settle, for ever."""
        pause = FIRST_PAUSE
        while True:
            await self._something.wait()
            endings, self._endings = self._endings[:BATCH], self._endings[BATCH:]
            tidings, self._tidings = self._tidings, []
            try:
                if tidings:
                    await self._app.backend.store(tidings)
                if endings:
                    await self._settle(endings)
            except (BrokerError, BackendError) as error:
                what = f"settle {len(endings)} endings" if endings else f"record {len(tidings)} states"
                log.warning("Cannot %s, trying again in %.1f s: %s", what, pause, error)
                self._endings[:0] = endings
                self._tidings[:0] = tidings
                await asyncio.sleep(pause)
                pause = longer(pause)
                continue
            pause = FIRST_PAUSE
            if not self._endings and not self._tidings:
                self._something.clear()
            watchers, self._watchers = self._watchers, []
            for watcher in watchers:
                if not watcher.done():
                    watcher.set_result(None)
            self._tell_settled()

    def progress(self) -> asyncio.Future[None]:
        """Return what is done when the next batch from now on has been settled."""
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        return watcher

    async def finished(self) -> None:
        """Return when all is settled."""
        while self._something.is_set():
            await self.progress()

    async def _settle(self, endings: Sequence[Ending]) -> None:
        now = self._app.clock.now()
        settlements = [
            decide(ending, now, self._options.max_deliveries, self._options.unknown_task_seconds) for ending in endings
        ]
        done = await self._settler.settle(self._lease(), settlements, now)
        if self._settler.left_pending:
            self.advancing.something.set()
        chatty = log.isEnabledFor(logging.INFO)
        counted: list[Outcome] = []
        for ending, settlement, good in zip(endings, settlements, done, strict=True):
            outcome = ending.outcome or settlement.outcome
            message = ending.delivery.message
            if not good:
                log.warning("The ending of %s[%s] is refused: it is another worker's by now", message.task, message.id)
            elif outcome is not None:
                counted.append(outcome)
                if chatty or outcome.state == states.FAILURE:
                    _log_outcome(outcome)
            elif ending.lost is not None:
                log.error("%s[%s]: its process was lost (%s); it runs again", message.task, message.id, ending.lost)
        self.statistics.add(counted)


def _log_outcome(outcome: Outcome) -> None:
    where, failure = f"{outcome.task}[{outcome.id}]", outcome.failure
    if outcome.state == states.SUCCESS:
        log.info("%s succeeded in %.3f s", where, outcome.runtime)
    elif failure is None:
        log.info("%s ended: %s", where, outcome.state)
    elif outcome.state == states.RETRY:
        log.info("%s is retried in %.1f s: %s", where, outcome.retry_delay or 0.0, failure.message)
    elif outcome.state == states.REVOKED:
        log.info("%s was revoked: %s", where, failure.message)
    else:
        log.error("%s failed: %s: %s\n%s", where, failure.type, failure.message, failure.traceback)
