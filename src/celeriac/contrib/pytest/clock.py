"""A virtual clock: it goes as the machine's does, and leaps to what is due, so that tests do not wait for it.

A leap goes from one due time to the next: the clock stops at each message that waits (countdown, ETA, the delay of a
retry) and at each tick of a schedule, lets the workers of this process finish what is due then, and goes on. So things
happen in the order in which they would have happened. It knows the memory broker, whose workers are in this process.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

from celeriac.brokers.memory import MemoryBroker
from celeriac.errors import NotSupported
from celeriac.model.clock import Clock, Duration, aware, instant, seconds
from celeriac.model.message import Message
from celeriac.ports.complete import in_thread

if TYPE_CHECKING:
    from celeriac.app.app import Celeriac

__all__ = ["VirtualClock"]

TIMEOUT: Final = 30.0  # seconds of the machine's time, for the tasks of one stop
LOOK_SECONDS: Final = 0.05
LISTED: Final = 5  # tasks named in an error


class VirtualClock(Clock):
    """The clock of one app, in a test."""

    def __init__(self, app: Celeriac) -> None:
        self._app = app
        self._ahead = 0.0  # of the machine's clock, in seconds
        self._stood_at = time.time()  # its last stop: it has gone on since

    def now(self) -> float:
        """Return seconds since the epoch: those of the machine's clock, and by how much this one has leapt."""
        return time.time() + self._ahead

    def time(self) -> datetime:
        """Return the time, as an aware datetime in UTC."""
        return aware(self.now())

    def advance(self, by: Duration, *, timeout: Duration = TIMEOUT) -> None:
        """Leap ahead, by way of all that becomes due; return when the workers of this process have finished that.

        At each stop, tasks may take `timeout` seconds of the machine's time: then `TimeoutError` is raised.
        """
        length = seconds(by, "by")
        if length < 0:
            raise ValueError(f"A clock does not go back: by must be 0 or more, not {by!r}.")
        self._leap(self.now() + length, seconds(timeout, "timeout"))

    def advance_to(self, when: datetime | float, *, timeout: Duration = TIMEOUT) -> None:
        """Leap ahead to an instant, as `advance` does."""
        target = instant(when, "when")
        if target < self._stood_at:
            raise ValueError(f"A clock does not go back: it is {self.time().isoformat()} already.")
        self._leap(target, seconds(timeout, "timeout"))

    async def aadvance(self, by: Duration, *, timeout: Duration = TIMEOUT) -> None:
        """Coroutine version of `advance`."""
        await in_thread(self.advance, by, timeout=timeout)

    async def aadvance_to(self, when: datetime | float, *, timeout: Duration = TIMEOUT) -> None:
        """Coroutine version of `advance_to`."""
        await in_thread(self.advance_to, when, timeout=timeout)

    def finish(self, *, timeout: Duration = TIMEOUT) -> None:
        """Return when the workers of this process have finished all that is due now."""
        self.advance(0, timeout=timeout)

    def _leap(self, target: float, timeout: float) -> None:
        broker = self._app.broker
        if not isinstance(broker, MemoryBroker):
            raise NotSupported(f"The virtual clock is for memory://, whose workers are in this process, and not for "
                               f"{broker!r}: other processes go by the machine's clock.")  # fmt: skip
        scheduler = self._app.scheduler("virtual clock")
        while True:
            self._app.broker.complete(scheduler.turn())
            self._finish(broker, timeout)
            stop = self._next_stop(broker)
            if stop is None or stop > target:
                break
            self._stand_at(stop, broker)
        self._stand_at(target, broker)

    def _next_stop(self, broker: MemoryBroker) -> float | None:
        """Return when the next message or schedule is due that is not due yet."""
        now = self.now()
        with broker.shared.lock:
            times = [message.due_at for _, message, _ in broker.shared.messages.values()]
            times += [entry.next_at and entry.next_at / 1000 for entry in broker.shared.schedules.values()]
        return min((time for time in times if time is not None and time > now), default=None)

    def _stand_at(self, when: float, broker: MemoryBroker) -> None:
        self._ahead = max(self._ahead, when - time.time())
        self._stood_at = max(self._stood_at, when)
        broker.shared.ring()

    def _finish(self, broker: MemoryBroker, timeout: float) -> None:
        """Wait until the workers have nothing to do."""
        store, deadline = broker.shared, time.monotonic() + timeout
        while True:
            seen = store.generation
            busy = self._busy(broker)
            if not busy:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                named = ", ".join(sorted(f"{message.task}[{message.id}]" for message in busy)[:LISTED])
                raise TimeoutError(f"After {timeout:g} s these tasks have not ended: {named}. Let them end, or give "
                                   "`advance` a longer `timeout`.")  # fmt: skip
            store.wait(seen, min(left, LOOK_SECONDS))

    def _busy(self, broker: MemoryBroker) -> list[Message]:
        """Return what workers run, and what they are about to receive; nothing if there are no workers."""
        store, now = broker.shared, self.now()
        with store.lock:
            received = {queue for worker in store.leases.values() for queue in worker.queues} - store.paused
            found = [held.delivery.message for held in store.held.values()]
            found += [message for _, message, _ in store.messages.values()
                      if message.queue in received and (message.due_at is None or message.due_at <= now)]  # fmt: skip
            if store.leases:
                found += [Message(id=node.workflow, task="(workflow)") for node in store.pending]
        return found
