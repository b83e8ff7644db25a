"""Outcomes as messages, each sent to the reply queue of its caller: `rpc://`, on the broker's server.

The server keeps an outcome only until its caller has read it; no other process can fetch it. A calling process has one
reply queue, named in its messages, and one thread that reads it. The queue survives lost connections and restarts of
the server. It is deleted when its process ends or, if the process was killed, after `UNREAD_SECONDS` without a reader,
as far as the server can do that. `backends/amqp.py` and others say how one kind of server is reached (`Replies`).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from celeriac import signals
from celeriac.backends.bases import WaitingBackend, Watch, without_value
from celeriac.drivers.bell import Bell
from celeriac.errors import BrokerError, ResultLost
from celeriac.model.clock import Clock
from celeriac.model.codec import Codec
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability

__all__ = ["HEARTBEAT", "UNREAD_SECONDS", "Replies", "ReplyBackend", "ReplyConnection"]

log = logging.getLogger("celeriac.backends")

UNREAD_SECONDS = 3600.0
CHILD_UNREAD_SECONDS = 60.0  # for a worker's child, which is killed when its worker stops
HEARTBEAT = 30  # seconds
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between attempts to reconnect
FETCHED = 1000  # so many fetched outcomes are kept for another fetch
DROPPED = 100_000  # the ids of so many that were dropped are remembered
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
    def is_too_large(self, error: BrokerError) -> bool:
        """Whether a body was refused because the server takes none of this size."""

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


class ReplyBackend(WaitingBackend):
    """Outcomes that were sent to this process."""

    lacks = frozenset({Ability.KEEP_OUTCOMES, Ability.KEEP_WORKFLOWS, Ability.LIST_RECENT})

    def __init__(self, server: Replies, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.replies = server
        self.clock = clock
        self.codec = server.codec
        self._expires = result_expires
        self._replies = f"{server.prefix}.reply."  # how the names of all reply queues begin
        self.begin()
        _backends.add(self)

    def begin(self) -> None:
        """Start empty, with a new reply queue; called again in a fork's child."""
        self._known: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()  # when it was received, by task id
        self._fetched: OrderedDict[str, None] = OrderedDict()
        self._dropped: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._bell = Bell()
        self._queue = f"{self._replies}{new_id()}"
        self._reader: _Reader | None = None

    # --- The reply queue ------------------------------------------------------------------------------

    @property
    def reply_to(self) -> str:
        """The reply queue of this process, declared on first use. Raises `BrokerUnavailable`."""
        if self._reader is None:
            self._listen()
        return self._queue

    def _listen(self) -> None:
        with self._lock:
            if self._reader is None:
                self._reader = _Reader(self, self._queue)

    def hear(self, outcomes: Iterable[Outcome]) -> None:
        """Store outcomes that the reader received; the first final outcome of a task stays."""
        now = self.clock.now()
        with self._lock:
            for outcome in outcomes:
                known = self._known.get(outcome.id)
                if known is None or not known[1].ready:
                    self._known[outcome.id] = now, outcome
                    self._known.move_to_end(outcome.id)
            if self._expires is not None:
                while self._known and next(iter(self._known.values()))[0] < now - self._expires:
                    self._known.popitem(last=False)
        self._bell.ring()

    # --- The port -------------------------------------------------------------------------------------

    async def store(self, outcomes: Sequence[Outcome]) -> list[bool]:
        replies = [outcome for outcome in outcomes if outcome.reply_to.startswith(self._replies)]
        for outcome in outcomes:
            if outcome.reply_to and not outcome.reply_to.startswith(self._replies):
                log.error("The outcome of %s[%s] is dropped: its address is the queue %r, which is not a reply queue",
                          outcome.task, outcome.id, outcome.reply_to)  # fmt: skip
        try:
            await self._send(replies)
        except BrokerError as error:
            if not self.replies.is_too_large(error):
                raise
            for outcome in replies:
                await self._send_alone(outcome)
        return [True] * len(outcomes)

    async def _send(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            encode = self.codec.encode_outcome
            await self.replies.send([(outcome.reply_to, encode(outcome)) for outcome in outcomes])

    async def _send_alone(self, outcome: Outcome) -> None:
        """Send an outcome. If it is too large for the server, send a failure that says so."""
        try:
            await self._send([outcome])
        except BrokerError as error:
            if not self.replies.is_too_large(error):
                raise
            await self._send([without_value(outcome, f"cannot be sent: {error}")])

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        if ids and wait > 0 and self._reader is None:
            self._listen()
        return super().fetch(ids, wait)

    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        if ids and wait > 0 and self._reader is None:
            await asyncio.to_thread(self._listen)
        return await super().afetch(ids, wait)

    def watch(self, ids: Sequence[str]) -> Watch:
        return self._bell

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        with self._lock:
            return self._look(ids, final)

    def _look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        known = {id: self._known[id][1] for id in ids if id in self._known}
        found = {id: outcome for id, outcome in known.items() if outcome.ready or not final}
        for id, outcome in found.items():
            if outcome.ready:
                self._fetched[id] = None
        while len(self._fetched) > max(FETCHED, len(ids)):
            id, _ = self._fetched.popitem(last=False)
            self._known.pop(id, None)
            self._dropped[id] = None
        while len(self._dropped) > DROPPED:
            self._dropped.popitem(last=False)
        if len(known) < len(ids) and (lost := [id for id in ids if id not in known and id in self._dropped]):
            raise ResultLost(f"The result of the task [{lost[0]}] was fetched before and is no longer kept: "
                             f"rpc:// keeps the last {FETCHED} that were fetched. Keep what `get` returns, or set "
                             "`result_backend` to one that keeps results: redis://, sqlite://.")  # fmt: skip
        return found

    def forget(self, ids: Sequence[str]) -> None:
        with self._lock:
            for id in ids:
                self._known.pop(id, None)

    async def aforget(self, ids: Sequence[str]) -> None:
        self.forget(ids)

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

    def __init__(self, backend: ReplyBackend, queue: str) -> None:
        self.queue = queue
        self._backend = backend
        self._replies = backend.replies
        self._stopped = threading.Event()
        self._connection: ReplyConnection | None = None
        _queues[queue] = self._replies
        self._replies.declare(queue, _unread)  # now, so that no outcome is sent to a missing queue
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
        connection = self._connection = self._replies.connect(self.queue, _unread)
        try:
            while not self._stopped.is_set():
                bodies = connection.read(HEARTBEAT / 3)
                if bodies:
                    self._backend.hear(filter(None, map(self._decoded, bodies)))
        finally:
            connection.close()

    def _decoded(self, body: bytes) -> Outcome | None:
        try:
            return self._replies.codec.decode_outcome(body)
        except ValueError as error:
            log.warning("A message of %d bytes in the reply queue is ignored: %s", len(body), error)
            return None

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._connection is not None:
            self._connection.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(STOPPING_SECONDS)


_backends: weakref.WeakSet[ReplyBackend] = weakref.WeakSet()
_queues: dict[str, Replies] = {}  # declared by this process, which deletes them when it ends
_unread = UNREAD_SECONDS


def _after_fork() -> None:
    """In a fork's child: forget the reply queues, which are the parent's."""
    _queues.clear()
    for backend in list(_backends):
        backend.begin()


def _begin_child(**_: Any) -> None:
    global _unread
    _unread = CHILD_UNREAD_SECONDS


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
signals.worker_process_init.connect(_begin_child)
signals.worker_process_shutdown.connect(_leave)  # such a process runs no `atexit`
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
