"""A pool of child processes: nothing that a task does can harm the supervisor.

Deliveries come in from the receiver; the pool assigns them to children and reports the endings. Where a child cannot
report how an attempt ended (it was killed at a time limit, say), the pool makes the outcome. Before it sends a signal,
it recalls what the child has not started, so that it knows which attempt the signal hits (see `frames.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Collection, Iterable, Sequence

from celeriac import signals, states
from celeriac.app.app import Celeriac
from celeriac.errors import TaskRevoked
from celeriac.model.message import COROUTINE, LANES, PLAIN
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.worker.decide import Ending
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.assignment import SUSPECT_SECONDS, CrashBlame, Pace, assign
from celeriac.worker.pools.child_handle import ChildHandle, ChildReader, Received
from celeriac.worker.pools.forkserver import exit_reason
from celeriac.worker.pools.frames import Ran, Ready
from celeriac.worker.pools.limits import TICK_SECONDS, check_limits, killed_outcome
from celeriac.worker.pools.pool import Active, ChildInfo, Pool, Reports
from celeriac.worker.pools.spawner import Spawner

__all__ = ["LEAVE_SECONDS", "ProcessPool"]

log = logging.getLogger("celeriac.worker")

LEAVE_SECONDS = 0.5  # at least, at the end: for children to send `worker_process_shutdown`, before they are killed
HANG_SECONDS = 10.0  # after which a child is killed that was to exit, and runs nothing
SHORT_LIFE = 1.0  # seconds; if a child exits sooner without having run anything, the next is forked after this pause


class ProcessPool(Pool):
    """A pool of processes, forked by the fork server."""

    kind = "processes"

    def __init__(self, app: Celeriac, options: WorkerOptions, reports: Reports, forkserver: socket.socket) -> None:
        super().__init__(app, options, reports)
        self._spawner = Spawner(forkserver, options, self._spawned, self._exited, self._orphaned)
        self._wanted = {PLAIN: options.concurrency, COROUTINE: options.coroutine_children}
        self._children: dict[int, ChildHandle] = {}
        self._pace = Pace()
        self._blame = CrashBlame(options.max_deliveries)
        self._growing: asyncio.Task[None] | None = None
        self._growing_later: asyncio.TimerHandle | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._early_exit_at = float("-inf")  # monotonic; when a child last exited within `SHORT_LIFE`
        self._stopping = False
        self._has_no_children = asyncio.Event()

    # --- Start ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._spawner.begin()
        self._reader = ChildReader(self._loop, self._received, self._kill_invalid)
        self._stopping = False
        self._replace()
        if self._growing is not None:
            await self._growing

    async def _grow(self) -> None:
        """Spawn the missing children one after the other; if one cannot be spawned now, try again later."""
        while not self._stopping and (short := [lane for lane in LANES if self._missing(lane) > 0]):
            pause = self._early_exit_at + SHORT_LIFE - time.monotonic()
            if pause <= 0:
                try:
                    await self._spawner.spawn(short[0])  # meanwhile a child of any lane may exit
                    continue
                except OSError as error:
                    pause = SHORT_LIFE
                    log.error("Cannot start a child process, trying again in %g s: %s", pause, error)
            if self._growing_later is not None:
                self._growing_later.cancel()
            self._growing_later = self._loop.call_later(pause, self._replace)
            return

    def _missing(self, lane: str) -> int:
        return self._wanted[lane] - sum(c.lane == lane and not c.retiring for c in self._children.values())

    def _spawned(self, child: ChildHandle) -> None:
        self._children[child.pid] = child
        self._reader.begin(child)

    def _replace(self) -> None:
        if not self._stopping and (self._growing is None or self._growing.done()):
            self._growing = self._loop.create_task(self._grow())

    # --- Work -----------------------------------------------------------------------------------------

    def free(self) -> dict[str, int]:
        free: dict[str, list[int]] = {PLAIN: [], COROUTINE: []}
        idle = False
        for child in self._children.values():
            slots = self._free_slots(child)
            free[child.lane].append(slots)
            idle = idle or (child.lane == PLAIN and slots > 0 and not child.running)
        plain = sum(free[PLAIN])
        # Receiving is cheapest in batches: report no free slots until a quarter is free. The rest keeps the children
        # busy while the batch is on its way.
        if not idle and plain * 4 < self._pace.depth * len(free[PLAIN]):
            plain = 0
        # If the app has no coroutine tasks, a message in that lane was sent when its function still was one. The
        # receiver moves it to its new lane.
        return {PLAIN: plain, COROUTINE: sum(free[COROUTINE]) if self._wanted[COROUTINE] else plain}

    def _free_slots(self, child: ChildHandle) -> int:
        if child.retiring or child.blocked or not child.is_ready:
            return 0
        slots = child.slots if child.slots is not None else self._pace.depth
        if self._options.max_tasks_per_child is not None:
            slots = min(slots, self._options.max_tasks_per_child - child.done)
        return max(0, slots - len(child.running))

    def dispatch(self, deliveries: Sequence[Delivery]) -> None:
        free = ((child, self._free_slots(child)) for child in self._children.values())
        batches, unassigned = assign(deliveries, free, self._blame)
        for child, batch in batches:
            child.run(batch)
        if unassigned:
            later = self._app.clock.now() + SUSPECT_SECONDS
            self._reports.ended([
                Ending(delivery=delivery, given_back=True, due_at=later if self._blame.is_suspect(delivery) else None)
                for delivery in unassigned
            ])  # fmt: skip
        self._keep_ticking()

    def _received(self, batch: Sequence[tuple[ChildHandle, Received]]) -> None:
        endings: list[Ending] = []
        for child, received in batch:
            endings += self._endings(child, received)
            if child.retiring or child.done >= (self._options.max_tasks_per_child or child.done + 1):
                self._retire(child)
        if endings:
            self._reports.ended(endings)
            self._reports.freed()

    def _endings(self, child: ChildHandle, received: Received) -> list[Ending]:
        """Return the endings in what a child sent; act on the rest."""
        endings: list[Ending] = []
        runtimes: list[float] = []
        limit = self._options.max_memory_per_child
        for content in received:
            if type(content) is Ran:
                delivery = child.ended(content.index)
                if delivery is None:
                    continue  # the pool has made its outcome already
                endings.append(Ending(delivery=delivery, outcome=content.outcome))
                runtimes.append(content.outcome.runtime)
                if limit is not None and content.peak_memory > limit and not child.retiring:
                    child.retiring = True
                    self._reports.child_lost("memory")
            elif isinstance(content, Ready):
                child.is_ready = True
                self._reports.freed()
            elif content.index in child.running:
                self._reports.reported(content.outcome)
        if child.lane == PLAIN and endings:
            child.current_started()
            self._pace.ran(runtimes)
        return endings

    def _retire(self, child: ChildHandle) -> None:
        """Let a child exit after what it has started, and replace it."""
        child.retiring = True
        recalled = child.recall()
        child.close_permits()
        if not child.running and child.hang_timer is None:
            child.hang_timer = self._loop.call_later(HANG_SECONDS, self._kill_hanging, child)
        self._replace()
        if recalled:
            self.dispatch(recalled)

    def _kill_hanging(self, child: ChildHandle) -> None:
        """Kill a child that has run its last, and does not exit: it would stay for ever, beside its successor."""
        log.warning("The child process %d is killed: it has nothing left to run, and has not exited within %g s. Does "
                    "a receiver of `worker_process_shutdown` hang?", child.pid, HANG_SECONDS)  # fmt: skip
        child.killed_by_us = True
        child.signal(signal.SIGKILL)

    # --- Time limits ----------------------------------------------------------------------------------

    def _keep_ticking(self) -> None:
        if self._ticking is None and any(child.needs_checks for child in self._children.values()):
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = time.monotonic()
        for child in list(self._children.values()):
            if child.lane == COROUTINE:
                self._check_blocked(child, now)
            check = check_limits(child, now, self._options.name)
            if check.stalled is not None:
                self._pace.stalled(check.stalled)
            if check.verdicts:
                self._kill(child, check.verdicts)
            elif check.stalled is not None or check.warn is not None:
                recalled = child.recall()
                if check.warn is not None:
                    check.warn.warnings += 1
                    child.signal(signal.SIGUSR1)
                if recalled:
                    self.dispatch(recalled)
        self._keep_ticking()

    def _check_blocked(self, child: ChildHandle, now: float) -> None:
        """Recall the runs that a coroutine child cannot start, because a coroutine blocks its event loop."""
        was_blocked = child.blocked
        if child.check_blocked(now):
            recalled = child.block()
            if recalled:
                self.dispatch(recalled)
        elif was_blocked and not child.blocked:
            self._reports.freed()

    def _kill(self, child: ChildHandle, verdicts: dict[int, Outcome]) -> None:
        """Kill a child to end some of its attempts, with these outcomes; its other attempts are not at fault."""
        recalled = child.recall()
        verdicts = {index: outcome for index, outcome in verdicts.items() if index in child.running}
        if verdicts:  # else it had not started them
            child.retiring = True
            child.killed_by_us = True
            child.verdicts.update(verdicts)
            child.signal(signal.SIGKILL)
        if recalled:
            self.dispatch(recalled)

    def _kill_invalid(self, child: ChildHandle) -> None:
        """Kill a child that sent an invalid frame: the ending of any of its runs may be lost."""
        log.error("The child process %d sent an invalid frame and is killed. Does a task write to file descriptors "
                  "that it has not opened?", child.pid)  # fmt: skip
        recalled = child.recall()
        child.retiring = True
        child.signal(signal.SIGKILL)
        if recalled:
            self.dispatch(recalled)

    # --- Exits ----------------------------------------------------------------------------------------

    def _orphaned(self) -> None:
        """Give up: the fork server is gone, and the children with it. Report how their attempts ended."""
        self._stopping = True
        for pid, child in list(self._children.items()):
            child.signal(signal.SIGKILL)
            self._exited(pid, -signal.SIGKILL)
        self._reports.broken("the fork server, which forks its child processes, has died")

    def _exited(self, pid: int, status: int) -> None:
        child = self._children.get(pid)
        if child is None:
            return  # it was spawned after `Spawner.spawn` was cancelled
        endings = self._endings(child, self._reader.drain(child))
        del self._children[pid]
        recalled = child.recall()
        if (why := self._why_lost(child, status)) is not None:
            self._reports.child_lost(why)
        endings += self._endings_of_dead(child, status)
        child.close()
        if endings:
            self._reports.ended(endings)
        if recalled:
            self.dispatch(recalled)
        now = time.monotonic()
        if not child.done and not child.running and not child.killed_by_us and now - child.forked_at < SHORT_LIFE:
            self._early_exit_at = now
        self._replace()
        if not self._children:
            self._has_no_children.set()

    def _why_lost(self, child: ChildHandle, status: int) -> str | None:
        """Return why a child has ended before its time; None if it has not."""
        if child.verdicts:
            failed = any(outcome.state == states.FAILURE for outcome in child.verdicts.values())
            return "time_limit" if failed else "terminated"
        if self._stopping or child.killed_by_us or (status == 0 and not child.running):
            return None
        return "killed" if status < 0 else "exit"

    def _endings_of_dead(self, child: ChildHandle, status: int) -> Iterable[Ending]:
        """Yield the endings of the attempts that were running in a child when it died."""
        cleared = self._blame.cleared(child)
        reason = "sent an invalid frame" if child.sent_invalid_frame else exit_reason(status)
        for index, run in child.running.items():
            delivery = run.delivery
            if index in child.verdicts:
                yield Ending(delivery=delivery, outcome=child.verdicts[index], killed=True)
            elif (child.killed_by_us or index in cleared) and delivery.message.acks_late:
                yield Ending(delivery=delivery, given_back=True)
            else:
                yield Ending(delivery=delivery, lost=reason)

    # --- Remote control --------------------------------------------------------------------------------

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
            recalled = child.recall()
            for index, run in list(child.running.items()):
                if run.delivery.message.id not in ids:
                    continue
                if child.lane == COROUTINE:
                    child.interrupt(index)
                else:
                    error, now = TaskRevoked("The task was terminated."), time.monotonic()
                    self._kill(child, {index: killed_outcome(run, error, states.REVOKED, now, self._options.name)})
            self.dispatch([delivery for delivery in recalled if delivery.message.id not in ids])  # also keeps ticking
            self._reports.ended([Ending(delivery=d, given_back=True) for d in recalled if d.message.id in ids])

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

    def recall(self) -> None:
        for child in self._children.values():
            recalled = child.recall()
            if recalled:
                self._reports.ended([Ending(delivery=delivery, given_back=True) for delivery in recalled])

    async def stop(self, abandon: bool, leave_seconds: float = 0.0) -> None:
        self._stopping = True
        if self._growing is not None:
            await asyncio.wait([self._growing])
        if not abandon:
            self.recall()
            if signals.worker_process_shutdown.receivers or self._app.tracing.is_possible:
                await self._let_idle_children_end(max(leave_seconds, LEAVE_SECONDS))
        for child in self._children.values():
            if abandon:
                child.recall()
                child.running.clear()
            child.killed_by_us = True
            child.signal(signal.SIGKILL)
        if self._children:
            self._has_no_children.clear()
            await self._has_no_children.wait()
        self._spawner.end()

    async def _let_idle_children_end(self, seconds: float) -> None:
        """Give the children that run nothing the time to do what they do at their end, unless others still run."""
        if not self._children or any(child.running for child in self._children.values()):
            return
        self._has_no_children.clear()
        for child in self._children.values():
            child.close_permits()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._has_no_children.wait()
