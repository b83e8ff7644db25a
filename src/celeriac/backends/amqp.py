"""Outcomes as AMQP messages, each sent to the reply queue of its caller: `rpc://`, on the broker's server.

The server keeps an outcome only until its caller has read it; no other process can fetch it. A calling process has one
reply queue, named in its messages, and one thread that reads it. The queue survives lost connections and restarts of
the server. It is deleted when its process ends or, if the process was killed, after `UNREAD_SECONDS` without a reader.
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
from collections import OrderedDict
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from typing import Any

from pamqp import commands

from celeriac import signals
from celeriac.backends.bases import WaitingBackend, Watch, without_value
from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.error_translation import ChannelClosed, ConnectionLost
from celeriac.drivers.amqp.frames import Content, Event, Publication, acknowledge, properties
from celeriac.drivers.amqp.server import Server, each, server
from celeriac.drivers.bell import Bell
from celeriac.errors import BrokerError, ResultLost
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability

__all__ = ["RpcBackend", "connect"]

log = logging.getLogger("celeriac.backends")

UNREAD_SECONDS = 3600.0
CHILD_UNREAD_SECONDS = 60.0  # for a worker's child, which is killed when its worker stops
HEARTBEAT = 30  # seconds
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between attempts to reconnect
FETCHED = 1000  # so many fetched outcomes are kept for another fetch
DROPPED = 100_000  # the ids of so many that were dropped are remembered
LEAVING_SECONDS = 2.0  # for the server to delete the reply queues of a process that ends
STOPPING_SECONDS = 1.0  # for a reader, which may be connecting to a server that does not answer
CHANNEL = 1


class RpcBackend(WaitingBackend):
    """Outcomes that were sent to this process."""

    lacks = frozenset({Ability.KEEP_OUTCOMES, Ability.KEEP_WORKFLOWS, Ability.LIST_RECENT})

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.server = server
        self.clock = clock
        self.codec = server.codec
        self._expires = result_expires
        self._replies = f"{self.server.prefix}.reply."  # how the names of all reply queues begin
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
        except ChannelClosed as error:
            if not error.too_large:
                raise
            for outcome in replies:
                await self._send_alone(outcome)
        return [True] * len(outcomes)

    async def _send(self, outcomes: Sequence[Outcome]) -> None:
        encode = self.codec.encode_outcome
        items = [Publication("", outcome.reply_to, properties(), encode(outcome)) for outcome in outcomes]
        if items:
            await self.server.ado(lambda: _sending(items))

    async def _send_alone(self, outcome: Outcome) -> None:
        """Send an outcome. If it is too large for the server, send a failure that says so."""
        try:
            await self._send([outcome])
        except ChannelClosed as error:
            if not error.too_large:
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
        self.server.close()

    def rest(self) -> None:
        """Stop reading; outcomes sent from now on stay in the queue until the next fetch."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()

    def __repr__(self) -> str:
        return f"<RpcBackend {self.server.address}>"


class _Reader:
    """The thread that reads the reply queue; it reconnects when its connection is lost."""

    def __init__(self, backend: RpcBackend, queue: str) -> None:
        self.queue = queue
        self._backend = backend
        self._server = backend.server
        self._stopped = threading.Event()
        self._connection: Connection | None = None
        self._server.do(self._declaring)  # now, so that no outcome is sent to a missing queue
        self._thread = threading.Thread(target=self._run, name="celeriac-replies", daemon=True)
        self._thread.start()

    def _declaring(self) -> Generator[Any, Any, None]:
        _queues[self.queue] = self._server
        arguments: dict[str, Any] = {"x-expires": int(_unread * 1000)}
        if self._server.quorum:
            arguments["x-queue-type"] = "quorum"
        yield commands.Queue.Declare(queue=self.queue, durable=True, arguments=arguments)

    def _run(self) -> None:
        tries = 0
        while not self._stopped.is_set():
            try:
                self._read()
            except (OSError, BrokerError, ChannelClosed):
                self._stopped.wait(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1
            else:
                tries = 0

    def _read(self) -> None:
        """Read until the connection is lost or `stop` is called."""
        connection = self._server.connect(self._server.timeout, HEARTBEAT, "celeriac replies")
        self._connection = connection
        try:
            if self._stopped.is_set():
                return
            deadline = time.monotonic() + self._server.timeout
            for what in self._declaring():
                connection.call(what, deadline)
            connection.call(commands.Basic.Consume(queue=self.queue), deadline)
            while not self._stopped.is_set():
                event = connection.wait(HEARTBEAT / 3)
                if event is not None:
                    self._take(connection, [event, *connection.rest()])
                connection.beat()
        finally:
            connection.close()

    def _take(self, connection: Connection, events: Sequence[Event]) -> None:
        contents = [event for event in events if isinstance(event, Content)]
        if contents:
            self._backend.hear(filter(None, map(self._decoded, contents)))
            connection.send(acknowledge(CHANNEL, contents[-1].tag, multiple=True))
        if len(contents) < len(events):  # a `basic.cancel`: the server sends nothing else unasked
            raise ConnectionLost("the reply queue was deleted, or its node has failed")

    def _decoded(self, content: Content) -> Outcome | None:
        try:
            return self._server.codec.decode_outcome(content.body)
        except ValueError as error:
            log.warning("A message of %d bytes in the reply queue is ignored: %s", len(content.body), error)
            return None

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._connection is not None:
            self._connection.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(STOPPING_SECONDS)


def _sending(items: list[Publication]) -> Generator[Any, Any, None]:
    yield items  # an unroutable outcome has no caller that waits for it


_backends: weakref.WeakSet[RpcBackend] = weakref.WeakSet()
_queues: dict[str, Server] = {}  # declared by this process, which deletes them when it ends
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
        queue, server = _queues.popitem()
        with contextlib.suppress(BrokerError):
            server.do(partial(each, [commands.Queue.Delete(queue=queue)]), deadline - time.monotonic())


atexit.register(_leave)
signals.worker_process_init.connect(_begin_child)
signals.worker_process_shutdown.connect(_leave)  # such a process runs no `atexit`
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac", queue_type: str = "auto") -> RpcBackend:  # fmt: skip
    """Return the backend for an `amqp://` URL: `connections.py` replaces `rpc://` by the broker's URL."""
    return RpcBackend(server(url, prefix, queue_type, timeout, codec), clock, result_expires)
