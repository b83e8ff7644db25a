"""Where messages wait that are not due: on the server, or in a store beside it (`ports/delays.py`).

The setting `broker_delays` decides, and what the server can: `Transport.holds_delayed`. `Sender` asks for the store
before it sends what has to wait; leases and front ends take messages out of it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence

from celeriac.brokers.queue_server.envelope import Envelope, unpack
from celeriac.brokers.queue_server.transport import Holds, Procedure, Transport
from celeriac.errors import BackendError, BackendUnavailable, BrokerError, BrokerUnavailable, NotSupported
from celeriac.model.message import Message
from celeriac.ports.delays import Delayed, DelayStore, Taken
from celeriac.ports.operations import unreadable

__all__ = ["AUTO", "SERVER", "STORE", "Delays", "as_broker_error"]

log = logging.getLogger("celeriac.brokers")

AUTO, SERVER, STORE = "auto", "server", "store"


class Delays:
    """The store of one broker, if it uses one."""

    def __init__(self, transport: Transport) -> None:
        self.mode = AUTO
        self._transport = transport
        self._codec = transport.codec
        self._source: Callable[[], DelayStore] | None = None
        self._found: DelayStore | None = None
        self._holds: Holds | None = None  # what the server can, once it was asked
        self._checked: set[str] = set()  # queues whose names the server accepts

    def use(self, source: Callable[[], DelayStore], mode: str) -> None:
        """Keep messages in the store that `source` returns, in any case or (`AUTO`) if the server needs it.

        `source` raises `NotSupported` if there is none.
        """
        self._source, self.mode = source, mode
        self._found = None

    # --- Which store ----------------------------------------------------------------------------------

    def store(self) -> DelayStore | None:
        """Return the store for messages that wait; None if the server holds them. Raises `NotSupported`."""
        if self._holds is None:
            self._holds = self._transport.do(self._asking)
        return self._chosen(self._holds)

    async def astore(self) -> DelayStore | None:
        """Coroutine version of `store`."""
        if self._holds is None:
            self._holds = await self._transport.ado(self._asking)
        return self._chosen(self._holds)

    def _asking(self) -> Procedure[Holds]:
        yield from ()
        return self._transport.holds_delayed

    def _chosen(self, holds: Holds) -> DelayStore | None:
        if self._found is not None:
            return self._found
        if self.mode == SERVER or (self.mode == AUTO and holds is Holds.SAFELY):
            if holds is Holds.NEVER:
                raise NotSupported(f"{self._transport} holds no delayed messages, so `broker_delays = 'server'` leaves "
                                   "no place for this one. Set it to 'auto'.")  # fmt: skip
            return None
        try:
            if self._source is None:
                raise NotSupported("There is no store for them.")
            self._found = self._source()
        except NotSupported as error:
            if self.mode == AUTO and holds is Holds.UNSAFELY:
                return None
            why = "holds no delayed messages" if holds is Holds.NEVER else "shall not hold delayed messages"
            raise NotSupported(f"Nothing can wait for a countdown, an ETA or the delay of a retry: {self._transport} "
                               f"{why} (`broker_delays = {self.mode!r}`). {error}") from error  # fmt: skip
        return self._found

    def is_used(self) -> bool:
        """Return whether messages are known to be kept in a store. Asks nobody."""
        never = getattr(type(self._transport), "holds_delayed", None) is Holds.NEVER  # on any server of this protocol
        if self._found is None and self._source is not None and (self.mode == STORE or (self.mode == AUTO and never)):
            with contextlib.suppress(NotSupported):
                self._found = self._source()
        return self._found is not None

    async def for_moving(self) -> DelayStore | None:
        """Return the store that workers empty; None if there is none.

        They empty one that is not used (any more), too: others may still keep messages there.
        """
        try:
            store = await self.astore()
        except NotSupported as error:
            log.warning("A task that is retried later, or whose rate is limited, becomes a dead letter. %s", error)
            return None
        if store is None and self._source is not None:
            with contextlib.suppress(NotSupported):
                return self._source()
        return store

    # --- What is kept there ---------------------------------------------------------------------------

    def split(self, envelopes: Sequence[Envelope], now: float) -> tuple[list[Delayed], Sequence[Envelope]]:
        """Return what is to be kept, and what is to be sent. Raises `NotSupported` for names of queues."""
        kept: list[Delayed] = []
        sent: list[Envelope] = []
        for envelope in envelopes:
            message = envelope.message
            seconds = envelope.seconds(now) if message.due_at is not None else 0.0
            if seconds <= 0:
                sent.append(envelope)
                continue
            if message.queue not in self._checked:
                self._transport.topology.check(message.queue)
                self._checked.add(message.queue)
            is_instant = envelope.delay is None and message.countdown is None
            kept.append(Delayed(id=message.id, queue=message.queue, data=envelope.pack(self._codec),
                                due_at=message.due_at if is_instant else None, delay=seconds,
                                replaces=envelope.returns, again=envelope.again))  # fmt: skip
        return kept, sent

    def read(self, taken: Taken) -> Envelope:
        """Return the envelope of a message, to be sent to its line now. Raises `Unreadable`, a `ValueError`."""
        envelope = unpack(taken.data, taken.queue, self._codec)
        return envelope._replace(again=envelope.again or taken.again, delay=0.0)

    def shown(self, taken: Taken) -> Message:
        """Return a message for front ends: one that is unreadable, too."""
        try:
            return self.read(taken).message
        except ValueError as error:
            return unreadable(taken.data, taken.queue, str(error), id=taken.id).message


def as_broker_error(error: BackendError) -> BrokerError:
    """Return the error of a broker whose delayed messages cannot be kept, for one of their store."""
    kind = BrokerUnavailable if isinstance(error, BackendUnavailable) else BrokerError
    return kind(f"The message has to wait, in the result backend, which does not keep it: {error}")
