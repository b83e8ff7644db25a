"""The windows of a worker's lines, kept by what is not acknowledged yet.

STOMP can begin a subscription with a window, and end it: it cannot change the window. So to widen its window, a line
gets more subscriptions. To narrow it, acknowledgements are *held back*: the server pushes no more than a subscription's
window beyond what was acknowledged.

When a subscription ends, ActiveMQ puts back all that it had pushed by it and that was not acknowledged. So there each
subscription is for a single message: one that this worker cannot start goes back with its subscription, and no room
is left for the next one; those of running tasks stay. Elsewhere, messages go back by being sent again, and one
subscription takes the place of the others when nothing of the line is unsettled and the server has nothing to push.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from celeriac.drivers.stomp.aio import AioConnection
from celeriac.drivers.stomp.frames import Frame

__all__ = ["Pushed", "Window"]

EXACT = 16  # a smaller window is widened at once, a larger one …
FEW = 4  # … only if a fourth of what is unsettled is missing; otherwise …
IDLE_SECONDS = 1.0  # without a message, before a line begins again: one that comes at that moment counts as lost
STEADY_SECONDS = 0.05  # … after this time, within which settlements may make the room


class Pushed:
    """A message that the server has pushed."""

    __slots__ = ("ack", "body", "consumer_tag", "redelivered", "subscription", "tag", "window")

    def __init__(self, frame: Frame, tag: int, window: Window) -> None:
        self.tag = tag
        self.window = window
        self.consumer_tag = window.tag
        self.ack = frame.headers.get("ack", "")
        self.subscription = frame.headers.get("subscription", "")
        self.body = frame.body
        self.redelivered = frame.headers.get("redelivered") == "true"


class Window:
    """The subscriptions to a line."""

    def __init__(self, connection: AioConnection, destination: str, more: Callable[[int, int], dict[str, str]],
                 take: Callable[[Frame, Window], None], singly: bool) -> None:  # fmt: skip
        self.destination = destination
        self.tag = ""  # of the present consumer, or the last one
        self.room = 0  # how many messages the consumer wants
        self.held: list[Pushed] = []  # settled, and not acknowledged
        self._connection = connection
        self._headers = more  # of a subscription, by its size and the number of those before it
        self._take = take
        self._singly = singly  # each subscription is for a single message
        self._is_open = False
        self._free = 0  # how many messages the server may push
        self.is_fresh = False  # room was made since it was last known that the server had pushed what it had
        self._timer: asyncio.TimerHandle | None = None
        self._size = 0  # of all subscriptions
        self._active_at = 0.0  # by the monotonic clock: when something was pushed, or room was made
        self._unsettled = 0
        self._subscriptions: dict[str, None] = {}

    @property
    def is_untidy(self) -> bool:
        """Whether something is held back, or the server may push too much, although nothing was pushed for a while."""
        if self._free <= 0 or time.monotonic() < self._active_at + IDLE_SECONDS:
            return False
        return not self._unsettled and (bool(self.held) or (not self._singly and self._free > max(self.room, 1)))

    @property
    def takes_more(self) -> bool:
        """Whether the server may push more messages."""
        return self._free > 0

    def open(self, tag: str, room: int) -> None:
        """Let the server push so many messages to a consumer; more may be on their way."""
        self.tag, self.room, self._is_open = tag, room, True
        self._fit()

    def close(self) -> None:
        """Let the server push no more. It may push what it was allowed to."""
        self.room, self._is_open = 0, False

    def received(self, pushed: Pushed) -> None:
        """Note that a message was pushed."""
        self._active_at = time.monotonic()
        self._free -= 1
        self._unsettled += 1
        self.room -= self._is_open

    def acknowledge(self, pushed: Sequence[Pushed]) -> None:
        """Acknowledge messages, or hold that back as long as it would make more room than is wanted."""
        self.settled(pushed)
        self.held += pushed
        self._fit()

    def settled(self, pushed: Sequence[Pushed]) -> None:
        """Make the room that the settling of messages leaves to their consumer."""
        self._unsettled -= len(pushed)
        if self._is_open:
            self.room += sum(one.consumer_tag == self.tag for one in pushed)

    def acknowledged(self, pushed: Sequence[Pushed]) -> None:
        """Note that messages were acknowledged."""
        self._active_at = time.monotonic()
        self._free += len(pushed)
        self.is_fresh = True

    def put_back(self, pushed: Sequence[Pushed]) -> None:
        """Let the server take unsettled messages back, and give it no room for others."""
        self._unsettled -= len(pushed)
        self._end([one.subscription for one in pushed])

    def is_idle(self) -> None:
        """Note that the server had nothing to push, although it could: begin again, if it is worth it.

        If a message comes at this very moment, the server takes it back, which counts as a delivery. A line without
        a consumer may push one message: otherwise nothing would tell that there is one. Room for single messages stays:
        each one that is not wanted goes back together with the room for it.
        """
        if not self.is_untidy:
            return
        if self._singly:
            self._connection.finish([(one.ack, one.subscription) for one in self.held])
            self._forget([one.subscription for one in self.held])
            self.held = []
            return
        if self.held:
            self._connection.acknowledge([one.ack for one in self.held])
            self.held = []
        self._end([*self._subscriptions])
        self._size = self._free = 0
        self._subscribe(max(self.room, 1))

    def _fit(self) -> None:
        missing = self.room - self._free
        if missing <= 0:
            return
        now, self.held = self.held[:missing], self.held[missing:]
        if now:
            self._connection.acknowledge([one.ack for one in now])
            self.acknowledged(now)
        missing -= len(now)
        if missing <= 0:
            return
        if self._size < EXACT or FEW * missing >= self._unsettled:
            self._subscribe(missing)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(STEADY_SECONDS, self._widen)

    def _widen(self) -> None:
        self._timer = None
        if self.room > self._free and self._connection.lost is None:
            self._subscribe(self.room - self._free)

    def _subscribe(self, room: int) -> None:
        for size in [1] * room if self._singly else [room]:
            more = self._headers(size, len(self._subscriptions))
            id, _ = self._connection.subscribe(self._took, self.destination, more=more)
            self._subscriptions[id] = None
        self._active_at = time.monotonic()
        self._free += room
        self._size += room
        self.is_fresh = True

    def _end(self, subscriptions: Sequence[str]) -> None:
        for id in subscriptions:
            self._connection.unsubscribe(id)
        self._forget(subscriptions)

    def _forget(self, subscriptions: Sequence[str]) -> None:
        for id in subscriptions:
            del self._subscriptions[id]
        self._size -= len(subscriptions)

    def _took(self, frame: Frame) -> None:
        self._take(frame, self)
