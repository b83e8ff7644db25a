"""Tells those who watch what has ended (`model/watching.py`). While nobody does, it costs one look per batch.

The control command `watch` begins, repeats and ends watches. `Recorder` reports what was settled, grouped as it is
counted, so that a filter is applied to groups and not to each attempt. A duty of the supervisor sends: settling never
waits for it, and what cannot be sent is dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from celeriac.app.app import Celeriac
from celeriac.errors import AccessRefused, BrokerError
from celeriac.model.filters import Filter
from celeriac.model.history import Attempt
from celeriac.model.watching import Told, encode_told
from celeriac.worker.sampling import attempt_of
from celeriac.worker.statistics import Ended, Group

__all__ = ["Watches"]

log = logging.getLogger("celeriac.worker")

MOST_WATCHES = 500  # of one worker
DROPPED_SECONDS = 1.0  # between two messages that only say how many were left out


class Watches:
    """Who watches, and what they were not told yet."""

    def __init__(self, app: Celeriac, worker: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._worker = worker
        self._clock = clock
        self._watched: dict[str, _Watched] = {}  # by channel
        self._has_work = asyncio.Event()

    @property
    def is_watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watched)

    def watch(self, channel: str, chosen: Filter, rate: float, seconds: float) -> None:
        """Tell a channel what a filter means, for some time from now; with 0 seconds, no more.

        Raises `ValueError` if too many watch already.
        """
        now = self._clock()
        self._expire(now)
        if seconds <= 0:
            self._watched.pop(channel, None)
            return
        known = self._watched.get(channel)
        if known is None:
            if len(self._watched) >= MOST_WATCHES:
                raise ValueError(f"{MOST_WATCHES} watch already, which is the most.")
            known = self._watched[channel] = _Watched(chosen, rate, now)
        known.until = now + seconds

    def ended(self, groups: Mapping[Group, Sequence[Ended]]) -> None:
        """Tell soon of what has ended."""
        now = self._clock()
        self._expire(now)
        for watched in self._watched.values():
            watched.add(groups, now)
            if watched.attempts or watched.dropped:
                self._has_work.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            if await self._send():  # something is to be sent later
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DROPPED_SECONDS):
                        await self._has_work.wait()
                self._has_work.set()

    async def _send(self) -> bool:
        """Send what there is; return whether there are numbers that wait for more. Never raises."""
        broker, waits = self._app.broker, False
        for channel, watched in list(self._watched.items()):
            now = self._clock()
            if not watched.attempts and watched.dropped and now - watched.sent_at < DROPPED_SECONDS:
                waits = True
                continue
            if not watched.attempts and not watched.dropped:
                continue
            told = Told(self._worker, watched.attempts, watched.dropped)
            watched.attempts, watched.dropped, watched.sent_at = [], 0, now
            try:
                await broker.broadcast(channel, [broker.codec.seal("history", encode_told(told), channel)])
            except AccessRefused as error:  # a right does not come back by itself
                log.warning("The worker may not tell those who watch what has ended: %s", error)
                self._watched.pop(channel, None)
            except BrokerError as error:
                log.debug("Cannot tell those who watch what has ended: %s", error)
                watched.dropped += told.dropped + len(told.attempts)
                waits = True
            except Exception:  # a fault of Celeriac's; it must not end the worker
                log.exception("Cannot tell those who watch what has ended")
                self._watched.pop(channel, None)
        return waits

    def _expire(self, now: float) -> None:
        for channel in [channel for channel, watched in self._watched.items() if watched.until < now]:
            del self._watched[channel]


class _Watched:
    """One watch."""

    def __init__(self, chosen: Filter, rate: float, now: float) -> None:
        self.until = now
        self.attempts: list[Attempt] = []
        self.dropped = 0
        self.sent_at = 0.0
        self._filter = chosen
        self._rate = rate
        self._left = rate
        self._filled_at = now

    def add(self, groups: Mapping[Group, Sequence[Ended]], now: float) -> None:
        """Take the attempts that are meant, up to the rate, and count the others."""
        self._left = min(self._rate, self._left + (now - self._filled_at) * self._rate)
        self._filled_at = now
        chosen = self._filter
        for (task, queue, state, error, signature), ended in groups.items():
            if not chosen.counts(task, queue, state, error, signature):
                continue
            if chosen.roots:
                ended = [pair for pair in ended if (pair[1].root_id or pair[1].id) in chosen.roots]
            some = ended[: max(0, int(self._left))]
            self.attempts += [replace(attempt_of(pair), traceback="") for pair in some]
            self.dropped += len(ended) - len(some)
            self._left -= len(some)
