"""The roster: the workers of an app as pages show them, what each is running, and those that are gone.

A worker that is lost stays on it for a day, with what it held when it was seen last. Those that were lost while nobody
looked are known from the history: they have started, and not stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from celeriac.errors import BackendError, BrokerError
from celeriac.inspector import ActiveTask, Inspector, WorkerLoad
from celeriac.ports.operations import WorkerInfo
from celeriac.web.collecting import Collected
from celeriac.web.site import Site

__all__ = ["Roster", "Seen", "roster_of"]

log = logging.getLogger("celeriac.web")

FRESH: Final = 0.8  # seconds
ANSWER_SECONDS: Final = 1.0  # for workers to say what they run
LOST_FOR: Final = 86_400.0  # seconds that a lost worker stays
STOPPED_FOR: Final = 600.0  # … and one that has stopped
STARTED: Final = "worker.started"
STOPPED: Final = "worker.stopped"
MOST_EVENTS: Final = 1000
MOST_GONE: Final = 200


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as it was seen last."""

    label: str
    worker: WorkerInfo
    load: WorkerLoad | None = None  # None: it does not answer
    active: list[ActiveTask] = []
    seen_at: float = 0.0  # 0: never, it is known from the history
    gone: str = ""  # "lost" or "stopped"

    @property
    def busy(self) -> int:
        """How many of its slots are taken."""
        return sum(self.load.busy.values()) if self.load is not None else len(self.active)

    @property
    def slots(self) -> int:
        """How many tasks it can run at a time."""
        return sum((self.load.capacity if self.load is not None else self.worker.concurrency).values())

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that it receives from now."""
        return self.worker.queues if self.load is None or self.load.queues is None else self.load.queues

    @property
    def state(self) -> str:
        """What it is: "up", "silent", "lost" or "stopped"."""
        return self.gone or ("up" if self.load is not None else "silent")


class Roster:
    """The workers that this process has seen."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = asyncio.Lock()
        self._fresh_until = self._anew_from = 0.0  # monotonic
        self._partly_until = 0.0  # likewise: some workers were not waited for
        self._seen: dict[str, Seen] = {}
        self._gone: dict[str, Seen] = {}
        self._knows_history = False

    async def look(self, within: float | None = None) -> list[Seen]:
        """Return all workers: those that run, by name, then those that are gone, the latest first.

        With `within`, workers that do not answer are waited for so many seconds, about, and asked again for the next.
        """
        async with self._lock:
            now = time.monotonic()
            if now < self._fresh_until or (within is not None and now < self._partly_until):
                pass
            elif within is not None:
                await self._look(await self._site.collector.collected_soon(within), within)
                self._partly_until = time.monotonic() + FRESH
            else:
                await self._look(await self._site.collector.collected(), ANSWER_SECONDS)
                self._fresh_until = time.monotonic() + FRESH
        gone = sorted(self._gone.values(), key=lambda one: (-one.seen_at, one.label))
        return [*self._seen.values(), *(one for one in gone if one.label not in self._seen)]

    async def find(self, label: str, within: float | None = None) -> Seen | None:
        """Return a worker by its label, or its name; it may have started since the last look. `within`: see `look`."""
        return self._named(label, await self.look(within)) or self._named(label, await self._look_anew(within))

    @staticmethod
    def _named(label: str, found: list[Seen]) -> Seen | None:
        exact = [one for one in found if one.label == label]
        return next(iter(exact or [one for one in found if one.worker.name == label]), None)

    async def _look_anew(self, within: float | None) -> list[Seen]:
        """Look past what is kept for others, but not more often than everybody together would without that."""
        if time.monotonic() >= self._anew_from:
            self._anew_from = time.monotonic() + FRESH
            self._fresh_until = self._partly_until = 0.0
            self._site.collector.expire()
        return await self.look(within)

    def forget(self, label: str) -> bool:
        """Strike out a worker that is gone."""
        return self._gone.pop(label, None) is not None

    async def _look(self, collected: Collected, within: float) -> None:
        if collected.workers is None:
            return  # the broker is away: what was seen stays
        now = collected.now
        active = await self._active(collected, within)
        before, self._seen = self._seen, {}
        for label, worker in collected.workers.items():
            known = before.get(label)
            kept = active.get(label, known.active if known is not None else [])
            load = collected.load.get(label)
            self._seen[label] = Seen(label=label, worker=worker, load=load, active=kept, seen_at=now)
        if not self._knows_history:
            self._gone |= await self._lost_before(now)
            self._knows_history = True
        for label in before.keys() - self._seen.keys():
            stopped = await self._has_stopped(before[label])
            self._gone[label] = replace(before[label], gone="stopped" if stopped else "lost")
        for label, one in list(self._gone.items()):
            limit = STOPPED_FOR if one.gone == "stopped" else LOST_FOR
            since = one.seen_at or one.worker.started_at
            if label in self._seen or now - since > limit or len(self._gone) > MOST_GONE:
                del self._gone[label]

    async def _active(self, collected: Collected, within: float) -> dict[str, list[ActiveTask]]:
        if not collected.load or not any(sum(load.busy.values()) for load in collected.load.values()):
            return {label: [] for label in collected.load}
        try:
            return (await self._site.read(Inspector(self._site.app, timeout=within).active())).values
        except BrokerError as error:
            log.warning("What workers are running is not known: %s", error)
            return {}

    # --- Those that are gone --------------------------------------------------------------------------

    async def _events(self, since: float, name: str | None = None) -> list[Any]:
        history = self._site.app.history
        if history is None:
            return []
        try:
            return await self._site.read(history.events((STARTED, STOPPED), since, MOST_EVENTS, name))
        except (BackendError, BrokerError) as error:
            log.warning("When workers stopped is not known: %s", error)
            return []

    async def _has_stopped(self, one: Seen) -> bool:
        events = await self._events(one.worker.started_at, one.worker.name)
        return bool(events) and events[0].kind == STOPPED

    async def _lost_before(self, now: float) -> dict[str, Seen]:
        """Return the workers that have started, not stopped, and do not run."""
        running = {one.worker.name for one in self._seen.values()}
        latest: dict[str, Any] = {}
        for event in await self._events(now - LOST_FOR):
            latest.setdefault(event.id, event)
        return {
            name: Seen(label=name, worker=WorkerInfo(name=name, started_at=event.at), gone="lost")
            for name, event in latest.items()
            if event.kind == STARTED and name not in running
        }


def roster_of(site: Site) -> Roster:
    """Return the roster of a site."""
    if site.roster is None:
        site.roster = Roster(site)
    found: Roster = site.roster
    return found
