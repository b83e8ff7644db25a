"""A child process as the supervisor sees it: `ChildHandle` sends it runs, `ChildReader` reads what it sends.

Used by `ProcessPool`. A handle owns the child's socket, its pipe of permits, and the list of runs that it holds. One
reader serves all children of a pool.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from celeriac.model.message import PLAIN
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery
from celeriac.worker.pools.frames import (
    MAX_FRAME_BYTES,
    NO_RUN,
    PERMIT,
    RECEIVE_BYTES,
    FrameDecoder,
    Interrupt,
    Ran,
    Ready,
    Run,
    Runs,
    StateReport,
    frame,
    parse_from_child,
    permits,
)

__all__ = ["ChildHandle", "ChildReader", "Received", "SentRun"]

INT: Final = struct.Struct("i")
BLOCKED_SECONDS: Final = 0.1  # a coroutine child that takes no permit for this long is blocked
BUSY_RUNS: Final = 16  # a child that holds this many runs is read at intervals
READ_INTERVAL: Final = 0.001  # seconds

Received = list[Ready | Ran | StateReport]


class SentRun(msgspec.Struct, gc=False):
    """A delivery that was sent to a child."""

    index: int
    delivery: Delivery
    since: float  # monotonic; when it started, as far as the supervisor can tell
    warnings: int = 0  # how often the child was signalled that its soft time limit has passed


class ChildHandle:
    """One child."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pid: int, lane: str, sock: socket.socket, permits_read: int,
                 permits_write: int, slots: int | None) -> None:  # fmt: skip
        self.pid = pid
        self.lane = lane
        self.socket = sock
        self.slots = slots  # how many runs it may hold; None: it runs one at a time, and `Pace` decides
        self.decoder = FrameDecoder()
        self.running: dict[int, SentRun] = {}  # by index, in the order of sending; with those sent ahead
        self.verdicts: dict[int, Outcome] = {}  # by index: outcomes of the runs for which the pool killed the child
        self.interrupted: dict[int, float] = {}  # by index: when (monotonic) a coroutine was terminated
        self.done = 0
        self.forked_at = time.monotonic()
        self.is_ready = False
        self.retiring = False
        self.killed_by_us = False
        self.hang_timer: asyncio.TimerHandle | None = None  # since it has nothing left to do but exit
        self.sent_invalid_frame = False
        self.blocked = False  # its event loop does not run; only coroutine children
        self._loop = loop
        self._permits_read = permits_read
        self._permits_write: int | None = permits_write
        self._outbox = bytearray()
        self._last_index = 0
        self._untaken_since: float | None = None  # monotonic; since when there may be a permit that it has not taken
        self._permitted_bytes = 0  # permits written to the pipe, less those recalled
        self._taken_bytes = 0  # of these, what the child had taken at the last check
        self._limited = 0  # how many running runs have a time limit

    # --- To the child ---------------------------------------------------------------------------------

    def run(self, deliveries: Sequence[Delivery]) -> None:
        """Send deliveries with their permits."""
        now = time.monotonic()
        indices = range(self._last_index + 1, self._last_index + 1 + len(deliveries))
        self._last_index = indices[-1]
        runs, running = [], self.running
        for index, delivery in zip(indices, deliveries, strict=True):
            runs.append(Run(index, delivery.deliveries, delivery.message))
            running[index] = SentRun(index, delivery, now)
            if _limited(delivery):
                self._limited += 1
        self._write(frame(Runs(runs)))
        self._permit(indices)

    def _permit(self, indices: Sequence[int]) -> None:
        if self._permits_write is not None:
            self._permitted_bytes += os.write(self._permits_write, permits(indices))  # never partly: see `Spawner`
            self._untaken_since = self._untaken_since or time.monotonic()

    def interrupt(self, index: int) -> None:
        """Terminate a coroutine."""
        self.interrupted.setdefault(index, time.monotonic())
        self._write(frame(Interrupt(index)))

    def _write(self, data: bytes) -> None:
        if not self._outbox:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                return  # it has ended; the fork server will report it
            if not data:
                return
            self._loop.add_writer(self.socket, self._writable)
        self._outbox += data

    def _writable(self) -> None:
        try:
            del self._outbox[: self.socket.send(self._outbox)]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            self._outbox.clear()
        if not self._outbox:
            self._loop.remove_writer(self.socket)

    def recall(self) -> list[Delivery]:
        """Take back the runs that the child has not started, and return them. Those left in `running` have started."""
        try:
            data = os.read(self._permits_read, 1 << 20)
        except (BlockingIOError, OSError):
            return []
        self._permitted_bytes -= len(data)
        return [self._forget(index).delivery for (index,) in PERMIT.iter_unpack(data) if index in self.running]

    def check_blocked(self, now: float) -> bool:
        """Return whether a coroutine child has become blocked: it has taken no permit for `BLOCKED_SECONDS`.

        Resets `blocked` when the child has taken all its permits.
        """
        if self._untaken_since is None:
            return False
        (left,) = INT.unpack(fcntl.ioctl(self._permits_read, termios.FIONREAD, bytes(INT.size)))
        if not left:
            self._untaken_since, self.blocked = None, False
            return False
        if self._permitted_bytes - left != self._taken_bytes:  # it has taken some since the last check
            self._taken_bytes, self._untaken_since = self._permitted_bytes - left, now
        return not self.blocked and now - self._untaken_since > BLOCKED_SECONDS

    def block(self) -> list[Delivery]:
        """Mark the child as blocked and recall its runs. A permit for no run will show when it goes on."""
        self.blocked = True
        recalled = self.recall()
        self._permit((NO_RUN,))
        return recalled

    def close_permits(self) -> None:
        """Let the child exit when the runs that it has started have ended."""
        if self._permits_write is not None:
            os.close(self._permits_write)
            self._permits_write = None

    def signal(self, number: int) -> None:
        """Send a signal."""
        with suppress(ProcessLookupError):  # it has ended; the fork server will report it
            os.kill(self.pid, number)

    # --- From the child -------------------------------------------------------------------------------

    def receive(self) -> bytes | None:
        """Return the bytes that can be read now; empty if there are none yet, None at the end of the stream."""
        try:
            return self.socket.recv(RECEIVE_BYTES) or None
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            return None

    def ended(self, index: int) -> Delivery | None:
        """Remove a run that has ended; return its delivery, or None if it was removed before."""
        if index not in self.running:
            return None
        self.done += 1
        return self._forget(index).delivery

    def current_started(self) -> None:
        """Start the clock of a plain child's current run: the one before it has ended."""
        current = self.current()
        if current is not None:
            current.since = time.monotonic()

    def _forget(self, index: int) -> SentRun:
        sent = self.running.pop(index)
        self.interrupted.pop(index, None)
        if self._limited and _limited(sent.delivery):
            self._limited -= 1
        return sent

    def current(self) -> SentRun | None:
        """Return the run that a plain child is executing, or executes next."""
        return next(iter(self.running.values()), None)

    @property
    def needs_checks(self) -> bool:
        """Whether `check_limits` or `check_blocked` may find something, now or later."""
        if self._limited or self.interrupted:
            return True
        return len(self.running) > 1 if self.lane == PLAIN else self._untaken_since is not None

    def close(self) -> None:
        """Close the socket and the pipe, when it has exited."""
        if self.hang_timer is not None:
            self.hang_timer.cancel()
        self._loop.remove_writer(self.socket)
        self.socket.close()
        self.close_permits()
        os.close(self._permits_read)


def _limited(delivery: Delivery) -> bool:
    return delivery.message.time_limit is not None or delivery.message.soft_time_limit is not None


class ChildReader:
    """Reads frames from children: at once from a child with few runs, every millisecond from one with many.

    A child writes each ending at once, so that no ending is lost when it dies. A supervisor that woke up for each would
    do little else, so it reads from a busy child at intervals.

    Calls `received` with the frames. Calls `invalid` with a child that sent an invalid frame, and stops reading from
    it: an ending may have been lost in it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop,
                 received: Callable[[Sequence[tuple[ChildHandle, Received]]], None],
                 invalid: Callable[[ChildHandle], None]) -> None:  # fmt: skip
        self._loop = loop
        self._received = received
        self._invalid = invalid
        self._busy: dict[ChildHandle, None] = {}  # children that are read at intervals
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, child: ChildHandle) -> None:
        """Start reading from a child."""
        self._loop.add_reader(child.socket, self._readable, child)

    def end(self, child: ChildHandle) -> None:
        """Stop reading from a child."""
        self._busy.pop(child, None)
        self._loop.remove_reader(child.socket)

    def drain(self, child: ChildHandle) -> Received:
        """Return the rest of what a child sent before it ended, and stop reading from it."""
        self.end(child)
        received: Received = []
        while not child.sent_invalid_frame and (data := child.receive()):
            received += self._parse(child, data)
        return received

    def _parse(self, child: ChildHandle, data: bytes) -> Received:
        """Return the contents of the frames, up to an invalid one."""
        received: Received = []
        try:
            for content in child.decoder.feed(data):
                received.append(parse_from_child(content))  # one by one: those before an invalid one are kept
        except msgspec.DecodeError:
            child.sent_invalid_frame = True
        child.sent_invalid_frame = child.sent_invalid_frame or child.decoder.wanted > MAX_FRAME_BYTES
        return received

    def _read(self, child: ChildHandle, data: bytes) -> tuple[ChildHandle, Received]:
        received = self._parse(child, data)
        if child.sent_invalid_frame:
            self.end(child)
            self._invalid(child)
        return child, received

    def _readable(self, child: ChildHandle) -> None:
        data = child.receive()
        if data is None:
            self._loop.remove_reader(child.socket)  # it has ended; the fork server will report how
            return
        if len(child.running) >= BUSY_RUNS:
            self._loop.remove_reader(child.socket)
            self._busy[child] = None
            self._read_later()
        if data:
            self._received([self._read(child, data)])

    def _read_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(READ_INTERVAL, self._read_busy)

    def _read_busy(self) -> None:
        """Read from all busy children; read at once again from those that are no longer busy."""
        self._timer = None
        batch = []
        for child in list(self._busy):
            data = child.receive()
            if data:
                batch.append(self._read(child, data))
            if data is None:
                del self._busy[child]
            elif child.sent_invalid_frame:
                continue
            elif len(child.running) < BUSY_RUNS:
                del self._busy[child]
                self.begin(child)
        if batch:
            self._received(batch)
        if self._busy:
            self._read_later()
