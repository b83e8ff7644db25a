"""A child process, as its pool holds it: its socket, its pipe of permits, and what it was sent."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from celeriac.model.message import PLAIN
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.worker.pools.frames import NOTHING, PERMIT, RECEIVE_BYTES, Frames, Interrupt, Run, Runs, frame, permits

__all__ = ["ChildHandle", "Sent"]

INT = struct.Struct("i")
BLOCKED_SECONDS = 0.1  # a loop that has not come round for so long is blocked


class Sent(msgspec.Struct, gc=False):
    """A delivery that a child was sent."""

    index: int
    delivery: Delivery
    since: float  # monotonic; when it was started, as far as can be seen from here
    warnings: int = 0  # how often it was signalled that its soft time limit has passed


class ChildHandle:
    """One child."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pid: int, lane: str, link: socket.socket, permits_read: int,
                 permits_write: int, slots: int | None) -> None:  # fmt: skip
        self.pid = pid
        self.lane = lane
        self.link = link
        self.slots = slots  # how many at a time; None: one, and the pool decides how many are sent ahead
        self.frames = Frames()
        self.running: dict[int, Sent] = {}  # by index, in the order in which they were sent
        self.verdicts: dict[int, Outcome] = {}  # how attempts ended for which the pool killed the child
        self.interrupted: dict[int, float] = {}  # monotonic, by index; when a coroutine was told to end as terminated
        self.done = 0
        self.born = time.monotonic()
        self.is_ready = False
        self.retiring = False
        self.killed_by_us = False
        self.garbled = False  # it said what cannot be understood
        self._loop = loop
        self._permits_read = permits_read
        self._permits_write: int | None = permits_write
        self._outbox = bytearray()
        self._next = 0
        self.blocked = False  # its loop does not run; coroutine children alone
        self._permitted_at: float | None = None  # monotonic; when it got the oldest permit that it may not have taken
        self._permitted = 0  # bytes; permits that it was given, less those that were taken back
        self._taken = 0  # bytes; of these, what it had taken at the last look
        self._limited = 0  # of those running, how many have a time limit

    # --- To the child ---------------------------------------------------------------------------------

    def run(self, deliveries: Sequence[Delivery]) -> None:
        """Send deliveries, and permit them."""
        now = time.monotonic()
        indices = range(self._next + 1, self._next + 1 + len(deliveries))
        self._next = indices[-1]
        runs, running = [], self.running
        for index, delivery in zip(indices, deliveries, strict=True):
            runs.append(Run(index, delivery.deliveries, delivery.message))
            running[index] = Sent(index, delivery, now)
            if _limited(delivery):
                self._limited += 1
        self._write(frame(Runs(runs)))
        self._permit(indices)

    def _permit(self, indices: Sequence[int]) -> None:
        if self._permits_write is not None:
            self._permitted += os.write(self._permits_write, permits(indices))  # whole: see `Spawner`
            self._permitted_at = self._permitted_at or time.monotonic()

    def interrupt(self, index: int) -> None:
        """Tell the child to end a coroutine as terminated."""
        self.interrupted.setdefault(index, time.monotonic())
        self._write(frame(Interrupt(index)))

    def _write(self, data: bytes) -> None:
        if not self._outbox:
            try:
                data = data[self.link.send(data) :]
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                return  # it has ended; the nursery will tell
            if not data:
                return
            self._loop.add_writer(self.link, self._writable)
        self._outbox += data

    def _writable(self) -> None:
        try:
            del self._outbox[: self.link.send(self._outbox)]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._outbox.clear()
        if not self._outbox:
            self._loop.remove_writer(self.link)

    def call_back(self) -> list[Delivery]:
        """Take back what the child has not started, and return it. What is left in `running` was started."""
        try:
            data = os.read(self._permits_read, 1 << 20)
        except (BlockingIOError, OSError):
            return []
        self._permitted -= len(data)
        return [self._forget(index).delivery for (index,) in PERMIT.iter_unpack(data) if index in self.running]

    def watch_claims(self, now: float) -> bool:
        """Return whether a coroutine child has left permits untaken for so long that its loop must be blocked.

        A blocked child is given a permit for nothing. When it has taken that, it is not `blocked` any more.
        """
        if self._permitted_at is None:
            return False
        (left,) = INT.unpack(fcntl.ioctl(self._permits_read, termios.FIONREAD, bytes(INT.size)))
        if not left:
            self._permitted_at, self.blocked = None, False
            return False
        if self._permitted - left != self._taken:  # it takes them, one after the other
            self._taken, self._permitted_at = self._permitted - left, now
        return not self.blocked and now - self._permitted_at > BLOCKED_SECONDS

    def block(self) -> list[Delivery]:
        """Take back what a blocked child has not started."""
        self.blocked = True
        called_back = self.call_back()
        self._permit((NOTHING,))
        return called_back

    def hang_up(self) -> None:
        """Let the child end, when it has ended what it started."""
        if self._permits_write is not None:
            os.close(self._permits_write)
            self._permits_write = None

    def signal(self, number: int) -> None:
        """Send a signal."""
        with suppress(ProcessLookupError):  # it has ended; the nursery will tell
            os.kill(self.pid, number)

    # --- From the child -------------------------------------------------------------------------------

    def receive(self) -> bytes | None:
        """Return what there is to read: nothing yet (empty), or nothing ever more (None)."""
        try:
            return self.link.recv(RECEIVE_BYTES) or None
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            return None

    def ended(self, index: int) -> Delivery | None:
        """Take note that a run has ended; return its delivery, or None if it is known no more."""
        if index not in self.running:
            return None
        self.done += 1
        return self._forget(index).delivery

    def went_on(self) -> None:
        """Take note that a plain child has ended runs, and begun the next."""
        head = self.head()
        if head is not None:
            head.since = time.monotonic()

    def _forget(self, index: int) -> Sent:
        sent = self.running.pop(index)
        self.interrupted.pop(index, None)
        if self._limited and _limited(sent.delivery):
            self._limited -= 1
        return sent

    def head(self) -> Sent | None:
        """Return the run that a plain child is at."""
        return next(iter(self.running.values()), None)

    @property
    def needs_watch(self) -> bool:
        """Whether time can bring something about: a limit, or a run that waits behind another."""
        if self._limited or self.interrupted:
            return True
        return len(self.running) > 1 if self.lane == PLAIN else self._permitted_at is not None

    def close(self) -> None:
        """Let go of the socket and the pipe."""
        self._loop.remove_writer(self.link)
        self.link.close()
        self.hang_up()
        os.close(self._permits_read)


def _limited(delivery: Delivery) -> bool:
    return delivery.message.time_limit is not None or delivery.message.soft_time_limit is not None
