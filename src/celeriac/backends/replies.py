"""The base of backends that send each outcome to its caller, which keeps it: `rpc://`.

A calling process has one reply address, named in its messages, and something that receives what is sent there: the
adapter's. This base keeps what was received, and says what becomes of outcomes that cannot be sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

from celeriac import signals
from celeriac.backends.bases import WaitingBackend, Watch, without_value
from celeriac.drivers.bell import Bell
from celeriac.drivers.server_errors import RequestRefused
from celeriac.errors import ResultLost
from celeriac.model.clock import Clock
from celeriac.model.codec import Codec
from celeriac.model.outcome import Outcome
from celeriac.ports.abilities import Ability

__all__ = ["UNREAD_SECONDS", "ReplyingBackend", "unread_seconds"]

log = logging.getLogger("celeriac.backends")

UNREAD_SECONDS = 3600.0
CHILD_UNREAD_SECONDS = 60.0  # for a worker's child, which is killed when its worker stops
FETCHED = 1000  # so many fetched outcomes are kept for another fetch
DROPPED = 100_000  # the ids of so many that were dropped are remembered


class ReplyingBackend(WaitingBackend):
    """Outcomes that were sent to this process."""

    lacks = frozenset({Ability.KEEP_OUTCOMES, Ability.KEEP_WORKFLOWS, Ability.LIST_RECENT})

    def __init__(self, codec: Codec, clock: Clock, result_expires: float | None, replies: str) -> None:
        self.clock = clock
        self.codec = codec
        self._expires = result_expires
        self._replies = replies  # how all reply addresses begin
        self.begin()
        _backends.add(self)

    def begin(self) -> None:
        """Start empty; called again in a fork's child, which needs another reply address."""
        self._known: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()  # when it was received, by task id
        self._fetched: OrderedDict[str, None] = OrderedDict()
        self._dropped: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._bell = Bell()

    @property
    @abstractmethod
    def listening(self) -> bool:
        """Whether this process receives what is sent to its reply address."""

    @abstractmethod
    def listen(self) -> None:
        """Receive it from now on. Raises `BrokerUnavailable`."""

    @abstractmethod
    async def send(self, outcomes: Sequence[Outcome]) -> None:
        """Send outcomes to their reply addresses."""

    def decoded(self, body: bytes) -> Outcome | None:
        """Return an outcome from the bytes that were received; None, and a warning, if they cannot be read."""
        try:
            return self.codec.decode_outcome(body)
        except ValueError as error:
            log.warning("A message of %d bytes in the reply queue is ignored: %s", len(body), error)
            return None

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
            if replies:
                await self.send(replies)
        except RequestRefused as error:
            if not error.too_large:
                raise
            for outcome in replies:
                await self._send_alone(outcome)
        return [True] * len(outcomes)

    async def _send_alone(self, outcome: Outcome) -> None:
        """Send an outcome. If it is too large for the server, send a failure that says so."""
        try:
            await self.send([outcome])
        except RequestRefused as error:
            if not error.too_large:
                raise
            await self.send([without_value(outcome, f"cannot be sent: {error}")])

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        if ids and wait > 0 and not self.listening:
            self.listen()
        return super().fetch(ids, wait)

    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        if ids and wait > 0 and not self.listening:
            await asyncio.to_thread(self.listen)
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


_backends: weakref.WeakSet[ReplyingBackend] = weakref.WeakSet()
_unread = UNREAD_SECONDS


def unread_seconds() -> float:
    """Return after how many seconds without a reader the server may delete this process's reply queue."""
    return _unread


def _begin_child(**_: Any) -> None:
    global _unread
    _unread = CHILD_UNREAD_SECONDS


def _after_fork() -> None:
    """In a fork's child: forget the reply addresses, which are the parent's."""
    for backend in list(_backends):
        backend.begin()


signals.worker_process_init.connect(_begin_child)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
