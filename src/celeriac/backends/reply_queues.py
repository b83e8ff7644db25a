"""Outcomes as messages, each sent to the reply queue of its caller: `rpc://`, on the broker's server.

The server keeps an outcome only until its caller has read it; no other process can fetch it. A calling process has one
reply queue, named in its messages, and one thread that reads it. The queue survives lost connections and restarts of
the server. It is deleted when its process ends or, if the process was killed, after `unread_seconds` without a reader.
`backends/amqp.py` says how one kind of server is reached (`Replies`).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from celeriac import signals
from celeriac.backends.replies import ReplyingBackend, unread_seconds
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock
from celeriac.model.codec import Codec
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome

__all__ = ["HEARTBEAT", "Replies", "ReplyConnection", "ReplyQueueBackend"]

HEARTBEAT = 30  # seconds
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between attempts to reconnect
LEAVING_SECONDS = 2.0  # for the server to delete the reply queues of a process that ends
STOPPING_SECONDS = 1.0  # for a reader, which may be connecting to a server that does not answer


class ReplyConnection(ABC):
    """A blocking connection that consumes from a reply queue. Raises `OSError` or `BrokerError` when it is lost."""

    @abstractmethod
    def read(self, seconds: float) -> list[bytes]:
        """Return what has arrived, waiting so long for the first; the server forgets what the last call returned."""

    @abstractmethod
    def wake(self) -> None:
        """End `read` in another thread; the connection cannot be used after that."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


class Replies(ABC):
    """A server, as it is used to send outcomes and to receive them."""

    prefix: str
    codec: Codec

    @abstractmethod
    async def send(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Send bodies to queues; return when the server has confirmed all. Those that do not exist are left out."""

    @abstractmethod
    def declare(self, queue: str, unread: float) -> None:
        """Declare a reply queue, which the server may delete after so many seconds without a reader."""

    @abstractmethod
    def delete(self, queue: str, within: float) -> None:
        """Delete a reply queue, if the server lets its users do that."""

    @abstractmethod
    def connect(self, queue: str, unread: float) -> ReplyConnection:
        """Declare a reply queue, and consume from it."""

    @abstractmethod
    def close(self) -> None:
        """Close connections."""


class ReplyQueueBackend(ReplyingBackend):
    """Outcomes that were sent to the reply queue of this process."""

    def __init__(self, server: Replies, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.replies = server
        super().__init__(server.codec, clock, result_expires, f"{server.prefix}.reply.")
        _backends.add(self)

    def begin(self) -> None:
        """Start empty, with a new reply queue; called again in a fork's child."""
        super().begin()
        self._queue = f"{self._replies}{new_id()}"
        self._reader: _Reader | None = None

    # --- The reply queue ------------------------------------------------------------------------------

    @property
    def reply_to(self) -> str:
        """The reply queue of this process, declared on first use. Raises `BrokerUnavailable`."""
        if self._reader is None:
            self.listen()
        return self._queue

    @property
    def listening(self) -> bool:
        return self._reader is not None

    def listen(self) -> None:
        with self._lock:
            if self._reader is None:
                self._reader = _Reader(self, self._queue)

    async def send(self, outcomes: Sequence[Outcome]) -> None:
        encode = self.codec.encode_outcome
        await self.replies.send([(outcome.reply_to, encode(outcome)) for outcome in outcomes])

    def close(self) -> None:
        self.rest()
        self.replies.close()

    def rest(self) -> None:
        """Stop reading; outcomes sent from now on stay in the queue until the next fetch."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.replies}>"


class _Reader:
    """The thread that reads the reply queue; it reconnects when its connection is lost."""

    def __init__(self, backend: ReplyQueueBackend, queue: str) -> None:
        self.queue = queue
        self._backend = backend
        self._replies = backend.replies
        self._stopped = threading.Event()
        self._connection: ReplyConnection | None = None
        _queues[queue] = self._replies
        self._replies.declare(queue, unread_seconds())  # now, so that no outcome is sent to a missing queue
        self._thread = threading.Thread(target=self._run, name="celeriac-replies", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        tries = 0
        while not self._stopped.is_set():
            try:
                self._read()
            except (OSError, BrokerError):
                self._stopped.wait(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1
            else:
                tries = 0

    def _read(self) -> None:
        """Read until the connection is lost or `stop` is called."""
        _queues[self.queue] = self._replies
        connection = self._connection = self._replies.connect(self.queue, unread_seconds())
        try:
            while not self._stopped.is_set():
                bodies = connection.read(HEARTBEAT / 3)
                if bodies:
                    self._backend.hear(filter(None, map(self._backend.decoded, bodies)))
        finally:
            connection.close()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._connection is not None:
            self._connection.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(STOPPING_SECONDS)


_backends: weakref.WeakSet[ReplyQueueBackend] = weakref.WeakSet()
_queues: dict[str, Replies] = {}  # declared by this process, which deletes them when it ends


def _after_fork() -> None:
    """In a fork's child: forget the reply queues, which are the parent's; `replies.py` lets backends begin again."""
    _queues.clear()


def _leave(**_: Any) -> None:
    """Delete the reply queues of a process that ends. If the server does not answer, they expire."""
    for backend in list(_backends):
        backend.rest()
    deadline = time.monotonic() + LEAVING_SECONDS
    while _queues and time.monotonic() < deadline:
        queue, replies = _queues.popitem()
        with contextlib.suppress(BrokerError):
            replies.delete(queue, deadline - time.monotonic())


atexit.register(_leave)
signals.worker_process_shutdown.connect(_leave)  # such a process runs no `atexit`
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
