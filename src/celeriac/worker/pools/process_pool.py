"""Children in processes of their own: nothing that a task does can harm the supervisor.

The pool sends runs to its children and reports how each ended. It makes the outcome of an attempt itself where the
child could not: killed, or past its hard time limit. Before it sends a signal it calls back what the child has not
started, and so knows which attempt the signal will hit (see `frames`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Collection, Iterable, Sequence

from celeriac import states
from celeriac.app.app import Celeriac
from celeriac.errors import TaskRevoked
from celeriac.model.message import COROUTINE, LANES, PLAIN
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.worker.decide import Ending
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools import limits
from celeriac.worker.pools.assignment import SUSPECT_SECONDS, CrashBlame, assign
from celeriac.worker.pools.child_handle import ChildHandle
from celeriac.worker.pools.child_reader import ChildReader
from celeriac.worker.pools.frames import Ran, Ready, Told
from celeriac.worker.pools.pace import Pace
from celeriac.worker.pools.pool import Active, ChildInfo, Pool, Reports
from celeriac.worker.pools.spawner import Spawner

__all__ = ["ProcessPool"]

log = logging.getLogger("celeriac.worker")

SHORT_LIFE = 1.0  # seconds; after a child that ended sooner without having had anything to do, there is a pause


class ProcessPool(Pool):
    """A pool of processes, forked by the nursery."""

    kind = "processes"

    def __init__(self, app: Celeriac, options: WorkerOptions, reports: Reports, nursery: socket.socket) -> None:
        super().__init__(app, options, reports)
        self._spawner = Spawner(nursery, options, self._born, self._exited, self._orphaned)
        self._wanted = {PLAIN: options.concurrency, COROUTINE: options.coroutine_children}
        self._children: dict[int, ChildHandle] = {}
        self._pace = Pace()
        self._suspicion = CrashBlame(options.max_deliveries)
        self._growing: asyncio.Task[None] | None = None
        self._growing_later: asyncio.TimerHandle | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._stillborn_at = float("-inf")  # monotonic; when a child last ended at once
        self._stopping = False
        self._empty = asyncio.Event()

    # --- Start ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._spawner.begin()
        self._hearing = ChildReader(self._loop, self._hear, self._garbled)
        self._stopping = False
        self._replace()
        if self._growing is not None:
            await self._growing

    async def _grow(self) -> None:
        """Spawn the children that are missing, one after the other; go on later where that cannot be now."""
        for lane in LANES:
            while not self._stopping and self._missing(lane) > 0:
                pause = self._stillborn_at + SHORT_LIFE - time.monotonic()
                if pause <= 0:
                    try:
                        await self._spawner.spawn(lane)
                        continue
                    except OSError as error:
                        pause = SHORT_LIFE
                        log.error("No child can be started, trying again in %g s: %s", pause, error)
                if self._growing_later is not None:
                    self._growing_later.cancel()
                self._growing_later = self._loop.call_later(pause, self._replace)
                return

    def _missing(self, lane: str) -> int:
        return self._wanted[lane] - sum(c.lane == lane and not c.retiring for c in self._children.values())

    def _born(self, child: ChildHandle) -> None:
        self._children[child.pid] = child
        self._hearing.begin(child)

    def _replace(self) -> None:
        if not self._stopping and (self._growing is None or self._growing.done()):
            self._growing = self._loop.create_task(self._grow())

    # --- Work -----------------------------------------------------------------------------------------

    def free(self) -> dict[str, int]:
        rooms: dict[str, list[int]] = {PLAIN: [], COROUTINE: []}
        idle = False
        for child in self._children.values():
            room = self._room(child)
            rooms[child.lane].append(room)
            idle = idle or (child.lane == PLAIN and room > 0 and not child.running)
        plain = sum(rooms[PLAIN])
        # A few free places among many sent ahead are left to become more: receiving is cheapest in batches. But not so
        # many that a child comes to the end of what it was sent while more is on its way.
        if not idle and plain * 4 < self._pace.depth * len(rooms[PLAIN]):
            plain = 0
        # Without coroutine tasks, what is in their lane was sent before its function became a plain one: the receiver
        # gives it its lane.
        return {PLAIN: plain, COROUTINE: sum(rooms[COROUTINE]) if self._wanted[COROUTINE] else plain}

    def _room(self, child: ChildHandle) -> int:
        if child.retiring or child.blocked or not child.is_ready:
            return 0
        slots = child.slots if child.slots is not None else self._pace.depth
        if self._options.max_tasks_per_child is not None:
            slots = min(slots, self._options.max_tasks_per_child - child.done)
        return max(0, slots - len(child.running))

    def dispatch(self, deliveries: Sequence[Delivery]) -> None:
        rooms = ((child, self._room(child)) for child in self._children.values())
        batches, homeless = assign(deliveries, rooms, self._suspicion)
        for child, batch in batches:
            child.run(batch)
        if homeless:
            again = self._app.clock.now() + SUSPECT_SECONDS
            self._reports.ended([
                Ending(delivery=delivery, given_back=True, due_at=again if self._suspicion.falls_on(delivery) else None)
                for delivery in homeless
            ])  # fmt: skip
        self._keep_ticking()

    def _hear(self, said: Sequence[tuple[ChildHandle, list[Ready | Ran | Told]]]) -> None:
        endings: list[Ending] = []
        for child, news in said:
            endings += self._heard(child, news)
            if child.retiring or child.done >= (self._options.max_tasks_per_child or child.done + 1):
                self._retire(child)
        if endings:
            self._reports.ended(endings)
            self._reports.freed()

    def _heard(self, child: ChildHandle, said: list[Ready | Ran | Told]) -> list[Ending]:
        """Return the endings in what a child said."""
        endings: list[Ending] = []
        runtimes: list[float] = []
        limit = self._options.max_memory_per_child
        for news in said:
            if type(news) is Ran:
                delivery = child.ended(news.index)
                if delivery is None:
                    continue  # a verdict was faster
                endings.append(Ending(delivery=delivery, outcome=news.outcome))
                runtimes.append(news.outcome.runtime)
                if limit is not None and news.peak_memory > limit:
                    child.retiring = True
            elif isinstance(news, Ready):
                child.is_ready = True
                self._reports.freed()
            elif news.index in child.running:
                self._reports.told(news.outcome)
        if child.lane == PLAIN and endings:
            child.went_on()
            self._pace.ran(runtimes)
        return endings

    def _retire(self, child: ChildHandle) -> None:
        """Let a child end after what it has started, and have it replaced."""
        child.retiring = True
        called_back = child.call_back()
        child.hang_up()
        self._replace()
        if called_back:
            self.dispatch(called_back)

    # --- Watch ----------------------------------------------------------------------------------------

    def _keep_ticking(self) -> None:
        if self._ticking is None and any(child.needs_watch for child in self._children.values()):
            self._ticking = self._loop.call_later(limits.TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.lane == COROUTINE:
                self._watch_claims(child, now)
            due = limits.due(child, now, self._options.name)
            if due.stalled is not None:
                self._pace.stalled(due.stalled)
            if due.verdicts:
                self._kill(child, due.verdicts)
            elif due.stalled is not None or due.warn is not None:
                called_back = child.call_back()
                if due.warn is not None:
                    due.warn.warnings += 1
                    child.signal(signal.SIGUSR1)
                if called_back:
                    self.dispatch(called_back)
        self._keep_ticking()

    def _watch_claims(self, child: ChildHandle, now: float) -> None:
        """Call back what a coroutine child cannot start, because a coroutine blocks its loop."""
        was_blocked = child.blocked
        if child.watch_claims(now):
            called_back = child.block()
            if called_back:
                self.dispatch(called_back)
        elif was_blocked and not child.blocked:
            self._reports.freed()

    def _kill(self, child: ChildHandle, verdicts: dict[int, Outcome]) -> None:
        """Kill a child for what some of its attempts did; the others in it are not at fault."""
        called_back = child.call_back()
        verdicts = {index: outcome for index, outcome in verdicts.items() if index in child.running}
        if verdicts:  # else it has not begun what was to end
            child.retiring = True
            child.killed_by_us = True
            child.verdicts.update(verdicts)
            child.signal(signal.SIGKILL)
        if called_back:
            self.dispatch(called_back)

    def _garbled(self, child: ChildHandle) -> None:
        """Kill a child that cannot be understood: whatever it was at is lost."""
        log.error("The child %d said what cannot be understood (does a task write to its sockets?)", child.pid)
        called_back = child.call_back()
        child.retiring = True
        child.signal(signal.SIGKILL)
        if called_back:
            self.dispatch(called_back)

    # --- Children that end ----------------------------------------------------------------------------

    def _orphaned(self) -> None:
        """The nursery is gone, and with it the children: give up, having settled what they did."""
        self._stopping = True
        for pid, child in list(self._children.items()):
            child.signal(signal.SIGKILL)
            self._exited(pid, -signal.SIGKILL)
        self._reports.broken("The nursery, from which children are forked, has died.")

    def _exited(self, pid: int, status: int) -> None:
        child = self._children.get(pid)
        if child is None:
            return  # born when nobody waited for it any more
        endings = self._heard(child, self._hearing.last_words(child))
        del self._children[pid]
        called_back = child.call_back()
        endings += self._bury(child, status)
        child.close()
        if endings:
            self._reports.ended(endings)
        if called_back:
            self.dispatch(called_back)
        now = time.monotonic()
        if not child.done and not child.running and not child.killed_by_us and now - child.born < SHORT_LIFE:
            self._stillborn_at = now
        self._replace()
        if not self._children:
            self._empty.set()

    def _bury(self, child: ChildHandle, status: int) -> Iterable[Ending]:
        """Yield how the attempts ended that a child took with it."""
        acquitted = self._suspicion.acquits(child)
        for index, run in child.running.items():
            delivery = run.delivery
            if index in child.verdicts:
                yield Ending(delivery=delivery, outcome=child.verdicts[index])
            elif (child.killed_by_us or index in acquitted) and delivery.message.acks_late:
                yield Ending(delivery=delivery, given_back=True)
            else:
                yield Ending(delivery=delivery, lost="said what no frame is" if child.garbled else _how(status))

    # --- Look and operate -----------------------------------------------------------------------------

    def active(self) -> list[Active]:
        wall = time.time() - time.monotonic()
        found = []
        for child in self._children.values():
            for position, run in enumerate(child.running.values()):
                started = child.lane == COROUTINE or position == 0
                found.append(Active(run.delivery, child.pid, wall + run.since if started else None))
        return found

    def children(self) -> list[ChildInfo]:
        return [ChildInfo(c.pid, c.lane, c.done, len(c.running)) for c in self._children.values()]

    def terminate(self, ids: Collection[str]) -> None:
        for child in list(self._children.values()):
            if not any(run.delivery.message.id in ids for run in child.running.values()):
                continue
            called_back = child.call_back()
            for index, run in list(child.running.items()):
                if run.delivery.message.id not in ids:
                    continue
                if child.lane == COROUTINE:
                    child.interrupt(index)
                else:
                    error, now = TaskRevoked("The task was terminated."), time.monotonic()
                    self._kill(child, {index: limits.verdict(run, error, states.REVOKED, now, self._options.name)})
            self.dispatch([delivery for delivery in called_back if delivery.message.id not in ids])  # and keeps ticking
            self._reports.ended([Ending(delivery=d, given_back=True) for d in called_back if d.message.id in ids])

    def capacity(self) -> dict[str, int]:
        coroutines = self._wanted[COROUTINE] * self._options.coroutine_concurrency
        return {PLAIN: self._wanted[PLAIN], COROUTINE: coroutines}

    def resize(self, change: int) -> int:
        self._wanted[PLAIN] = max(1, self._wanted[PLAIN] + change)
        for child in list(self._children.values()):
            if self._missing(PLAIN) < 0 and child.lane == PLAIN and not child.retiring:
                self._retire(child)
        self._replace()
        return self._wanted[PLAIN]

    # --- Stop -----------------------------------------------------------------------------------------

    def call_back(self) -> None:
        for child in self._children.values():
            called_back = child.call_back()
            if called_back:
                self._reports.ended([Ending(delivery=delivery, given_back=True) for delivery in called_back])

    async def stop(self, abandon: bool) -> None:
        self._stopping = True
        if self._growing is not None:
            await asyncio.wait([self._growing])
        if not abandon:
            self.call_back()
        for child in self._children.values():
            if abandon:
                child.call_back()
                child.running.clear()
            child.killed_by_us = True
            child.signal(signal.SIGKILL)
        if self._children:
            self._empty.clear()
            await self._empty.wait()
        self._spawner.end()


def _how(status: int) -> str:
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exited with status {status}"
