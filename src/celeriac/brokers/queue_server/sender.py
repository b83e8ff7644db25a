"""Sends messages, dead letters and broadcasts, and declares missing lines first.

Producers, leases and operations of one broker send through its `Sender`. What has to wait is sent through the server's
delays, or kept in a store (`delays.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

from celeriac.brokers.queue_server.delays import Delays, as_broker_error
from celeriac.brokers.queue_server.envelope import Envelope, Parcel
from celeriac.brokers.queue_server.journal import LineMade, writing
from celeriac.brokers.queue_server.topology import DEAD, Line
from celeriac.brokers.queue_server.transport import Procedure, Transport, Unsent
from celeriac.errors import BackendError, BrokerError
from celeriac.model.clock import Clock

__all__ = ["DELAYS", "Sender"]

DELAYS = "delays"  # in `Transport.declared`: what `declare_delays` declares


class Sender:
    """Sends through one transport."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self.transport = transport
        self.clock = clock
        self.delays = Delays(transport)

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Blocking version of `send`."""
        if self._has_waiting(envelopes) and (store := self.delays.store()) is not None:
            kept, envelopes = self.delays.split(envelopes, self.clock.now())
            try:
                store.keep(kept)
            except BackendError as error:
                raise as_broker_error(error) from error
            if not envelopes:
                return
        self.transport.do(_Sending(self, envelopes))

    async def send(self, envelopes: Sequence[Envelope], parcels: Sequence[Parcel] = (),
                   within: float | None = None) -> None:  # fmt: skip
        """Return when the server has confirmed all; within the time-out, or so many seconds. A store may keep some."""
        sending = await self.sending(envelopes, parcels)
        if sending is not None:
            await self.transport.ado(sending, within)

    async def sending(self, envelopes: Sequence[Envelope],
                      parcels: Sequence[Parcel]) -> Callable[[], Procedure[None]] | None:  # fmt: skip
        """Return the procedure that sends a batch, after a store has kept some of it; None if nothing is left."""
        if self._has_waiting(envelopes) and (store := await self.delays.astore()) is not None:
            kept, envelopes = self.delays.split(envelopes, self.clock.now())
            try:
                await store.akeep(kept)
            except BackendError as error:
                raise as_broker_error(error) from error
            if not envelopes and not parcels:
                return None
        return _Sending(self, envelopes, parcels)

    def _has_waiting(self, envelopes: Sequence[Envelope]) -> bool:
        """Return whether some have to wait before they come to their lines."""
        later = [envelope for envelope in envelopes if envelope.message.due_at is not None]
        if not later:
            return False
        now = self.clock.now()
        return any(envelope.seconds(now) > 0 for envelope in later)

    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        """Send payloads to the current subscribers of a channel."""
        await self.transport.ado(lambda: self.transport.broadcast(channel, payloads))

    def declare(self, lines: Iterable[Line], known: Container[Line] | None = None) -> Procedure[None]:
        """Declare lines that are missing, and write lines to the journal.

        A worker writes those that are not `known` to be there: an administrator may have declared them. A sender does
        not know. It writes what it declares, and of what exists the lines that no worker would look for otherwise, once
        for each process: the process that declared one may have died before it wrote. The journal is written first: no
        worker consumes from a line that is not in it.
        """
        transport = self.transport
        topology, declared = transport.topology, transport.declared
        fresh = [line for line in lines if line not in declared]
        missing = set()
        for line in fresh:
            topology.check(line.queue)
            if not (yield from transport.exists(topology.address(line))):
                missing.add(line)

        def is_written(line: Line) -> bool:
            if known is not None:
                return line not in known
            return line in missing or line != topology.usual(line.queue, line.lane)

        entries = [LineMade((line.queue, line.lane, line.priority)) for line in filter(is_written, fresh)]
        if entries:
            yield from writing(transport, entries)
        for line in fresh:
            yield from transport.declare(line, line in missing)
            declared.add(line)

    def declare_dead(self, queue: str) -> Procedure[None]:
        """Declare the queue of a queue's dead letters, if it is missing."""
        transport = self.transport
        address = transport.topology.dead(queue)
        if address not in transport.declared:
            if not (yield from transport.exists(address)):
                yield from transport.declare_dead(queue)
            transport.declared.add(address)


class _Sending:
    """The procedure of sending a batch. Begun again after a lost connection, it marks messages as sent again."""

    def __init__(self, sender: Sender, envelopes: Sequence[Envelope], parcels: Sequence[Parcel] = ()) -> None:
        self._sender = sender
        self._envelopes = envelopes
        self._parcels = parcels
        self._sent = False

    def __call__(self) -> Procedure[None]:
        transport = self._sender.transport
        if not (yield from self._attempt()):
            return
        transport.declared.clear()  # a queue was deleted: declare it again
        unsent = yield from self._attempt()
        if unsent:
            raise BrokerError(f"{len(unsent.envelopes) + len(unsent.parcels)} messages cannot be routed: {transport} "
                              f"has no queue {unsent.address!r}, and it cannot be declared.")  # fmt: skip

    def _attempt(self) -> Procedure[Unsent | None]:
        """Send the batch; keep and return the part that reached no queue."""
        if self._sent:
            self._envelopes = [envelope._replace(again=True) for envelope in self._envelopes]
        now = self._sender.clock.now()  # so that declaring does not shorten delays
        yield from self._prepare()
        self._sent = True
        unsent = yield from self._sender.transport.publish(self._envelopes, self._parcels, now, self._keep)
        if unsent:
            self._keep(unsent)
        return unsent

    def _keep(self, unsent: Unsent) -> None:
        self._envelopes, self._parcels, self._sent, _ = unsent

    def _prepare(self) -> Procedure[None]:
        sender, transport = self._sender, self._sender.transport
        topology, declared = transport.topology, transport.declared
        fresh = {line for envelope in self._envelopes if (line := topology.line_of(envelope.message)) not in declared}
        if fresh:
            yield from sender.declare(sorted(fresh))
        if DELAYS not in declared and any(envelope.message.due_at is not None for envelope in self._envelopes):
            yield from transport.declare_delays()
            declared.add(DELAYS)
        for parcel in self._parcels:
            if parcel.address.endswith(DEAD):
                yield from sender.declare_dead(parcel.address.removesuffix(DEAD))
