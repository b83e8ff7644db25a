"""Outcomes as AMQP messages, each sent to the reply queue of its caller: `rpc://`, on the broker's server.

The server keeps an outcome only until its caller has read it; no other process can fetch it. A calling process has one
reply queue, named in its messages, and one thread that reads it. The queue survives lost connections and restarts of
the server. It is deleted when its process ends or, if the process was killed, after `UNREAD_SECONDS` without a reader.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

from pamqp import commands

from celeriac import signals
from celeriac.backends.replies import ReplyingBackend
from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.error_translation import ChannelClosed, ConnectionLost
from celeriac.drivers.amqp.frames import Content, Event, Publication, acknowledge, properties
from celeriac.drivers.amqp.server import Server, each, server
from celeriac.errors import BrokerError
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome

__all__ = ["RpcBackend", "connect"]

log = logging.getLogger("celeriac.backends")

UNREAD_SECONDS = 3600.0
CHILD_UNREAD_SECONDS = 60.0  # for a worker's child, which is killed when its worker stops
HEARTBEAT = 30  # seconds
PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds between attempts to reconnect
LEAVING_SECONDS = 2.0  # for the server to delete the reply queues of a process that ends
STOPPING_SECONDS = 1.0  # for a reader, which may be connecting to a server that does not answer
CHANNEL = 1


class RpcBackend(ReplyingBackend):
    """Outcomes in the reply queue of this process."""

    def __init__(self, server: Server, clock: Clock, result_expires: float | None = 86400.0) -> None:
        self.server = server
        super().__init__(server.codec, clock, result_expires, f"{server.prefix}.reply.")
        _rpc.add(self)

    def begin(self) -> None:
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

    # --- The port -------------------------------------------------------------------------------------

    async def send(self, outcomes: Sequence[Outcome]) -> None:
        encode = self.codec.encode_outcome
        items = [Publication("", outcome.reply_to, properties(), encode(outcome)) for outcome in outcomes]
        await self.server.ado(lambda: _sending(items))

    def too_large(self, error: BrokerError) -> bool:
        return isinstance(error, ChannelClosed) and error.too_large

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
            self._backend.hear(filter(None, [self._backend.decoded(content.body) for content in contents]))
            connection.send(acknowledge(CHANNEL, contents[-1].tag, multiple=True))
        if len(contents) < len(events):  # a `basic.cancel`: the server sends nothing else unasked
            raise ConnectionLost("the reply queue was deleted, or its node has failed")

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self._connection is not None:
            self._connection.wake()
        if self._thread is not threading.current_thread():
            self._thread.join(STOPPING_SECONDS)


def _sending(items: list[Publication]) -> Generator[Any, Any, None]:
    yield items  # an unroutable outcome has no caller that waits for it


_rpc: weakref.WeakSet[RpcBackend] = weakref.WeakSet()
_queues: dict[str, Server] = {}  # declared by this process, which deletes them when it ends
_unread = UNREAD_SECONDS


def _after_fork() -> None:
    """In a fork's child: forget the reply queues, which are the parent's."""
    _queues.clear()


def _begin_child(**_: Any) -> None:
    global _unread
    _unread = CHILD_UNREAD_SECONDS


def _leave(**_: Any) -> None:
    """Delete the reply queues of a process that ends. If the server does not answer, they expire."""
    for backend in list(_rpc):
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
