"""The transport of STOMP: sending with receipts, as procedures, and opening connections.

A procedure yields lists of publications and `Browse`, which `drivers.stomp.server` carries out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from celeriac.brokers.queue_server.envelope import Envelope, Parcel
from celeriac.brokers.queue_server.marked_reading import MarkedReading
from celeriac.brokers.queue_server.server_transport import Ended, ServerTransport
from celeriac.brokers.queue_server.topology import Line
from celeriac.brokers.queue_server.transport import Holds, Keep, Procedure, Pushed, Unsent
from celeriac.brokers.stomp.connections import StompWorkerConnection
from celeriac.brokers.stomp.inspection import StompInspection
from celeriac.brokers.stomp.topology import StompTopology
from celeriac.brokers.stomp.uncounted import Uncounted
from celeriac.drivers.server_errors import ConnectionLost
from celeriac.drivers.stomp.aio import AioConnection
from celeriac.drivers.stomp.frames import Frame, Publication, headers
from celeriac.drivers.stomp.opening import Browse
from celeriac.drivers.stomp.server import Batch, Server
from celeriac.errors import NotSupported
from celeriac.model.clock import Clock
from celeriac.model.message import new_id

__all__ = ["StompTransport"]

USUAL = 5  # the priority of most messages
PRIORITIES = "priorities"  # in `declared`: the server was seen to sort by priority
WIDEST = 64  # messages, with a subscription each: they last until the server's answer comes, and are soon put back
TRIAL_SECONDS = 60.0  # for which the messages of a trial last
LASTING = {"persistent": "true"}
PASSING = headers({"persistent": "false"})
MOST = "100000"  # entries of the journal

SORTS = '<policyEntry queue=">" prioritizedMessages="true"/>'
SCHEDULES = '<broker … schedulerSupport="true">'


class StompTransport(ServerTransport[Server, StompTopology, AioConnection]):
    """A server that speaks STOMP 1.2."""

    counts_held = True

    def __init__(self, server: Server, clock: Clock) -> None:
        super().__init__(server)
        self._uncounted = Uncounted(self, clock)
        self._headers: dict[int, bytes] = {}  # of a message, by priority

    @property
    def holds_delayed(self) -> Holds:
        return Holds.SAFELY if self.topology.dialect.schedules else Holds.NEVER

    def names(self) -> StompTopology:
        return StompTopology.on(self.server)

    @property
    def widest(self) -> int:  # type: ignore[override]
        return WIDEST if self.topology.dialect.takes_back else super().widest

    # --- Sending --------------------------------------------------------------------------------------

    def publish(self, envelopes: Sequence[Envelope], parcels: Sequence[Parcel], now: float,
                keep: Callable[[Unsent], None]) -> Procedure[Unsent | None]:  # fmt: skip
        if PRIORITIES not in self.declared and any(envelope.message.priority != USUAL for envelope in envelopes):
            yield from self._try_priorities()
        items = Batch(self._post(envelope, now) for envelope in envelopes)
        queue = self.topology.dialect.queue
        items += [Publication(queue(parcel.address), self._marks(USUAL), parcel.body) for parcel in parcels]
        yield items
        return None

    def _post(self, envelope: Envelope, now: float) -> Publication:
        message, topology = envelope.message, self.topology
        marks = self._marks(message.priority)
        if message.due_at is not None and (seconds := envelope.seconds(now)) > 0:
            if not topology.dialect.schedules:
                raise NotSupported(f"By STOMP, {self} keeps no message until it is due: tasks cannot have an ETA or a "
                                   "countdown, nor be retried after a delay. Use amqp://.")  # fmt: skip
            marks += b"AMQ_SCHEDULED_DELAY:%d\n" % max(1, round(seconds * 1000))
        destination = topology.dialect.queue(topology.address(topology.line_of(message)))
        return Publication(destination, marks, envelope.pack(self.codec))

    def _marks(self, priority: int) -> bytes:
        found = self._headers.get(priority)
        if found is None:
            items = {**LASTING, "priority": str(priority), **self.topology.dialect.of_lines}
            found = self._headers[priority] = headers(items)
        return found

    def exists(self, address: str) -> Procedure[bool]:
        topology = self.topology
        if not topology.dialect.browses:
            return False
        marks: list[Frame] = yield Browse(topology.marks, f"line='{address}'")
        return bool(marks)

    def declare(self, line: Line, missing: bool) -> Procedure[None]:
        topology = self.topology
        if missing and topology.dialect.browses:
            yield [Publication(topology.marks, headers({**LASTING, "line": topology.address(line)}), b"")]

    def declare_dead(self, queue: str) -> Procedure[None]:
        yield from ()

    def declare_delays(self) -> Procedure[None]:
        """Refuse delays where the server does not keep messages until they are due."""
        if not self.topology.dialect.schedules:
            return
        found = yield from self._try({"at once": {}, "later": {"AMQ_SCHEDULED_DELAY": "2000"}})
        if "later" in found:
            raise NotSupported(f"{self} delivers delayed messages at once, for its scheduler is off: tasks cannot have "
                               "an ETA or a countdown, nor be retried after a delay. Switch it on in activemq.xml: "
                               f"{SCHEDULES}")  # fmt: skip

    def _try_priorities(self) -> Procedure[None]:
        """Refuse priorities where the server does not sort by them."""
        if self.topology.dialect.browses:
            found = yield from self._try({"low": {"priority": "1"}, "high": {"priority": "9"}})
            if found[:2] == ["low", "high"]:
                raise NotSupported(f"{self} does not sort messages by priority: tasks cannot have another one than "
                                   f"{USUAL}. Switch it on in activemq.xml: {SORTS}")  # fmt: skip
        self.declared.add(PRIORITIES)

    def _try(self, messages: dict[str, dict[str, str]]) -> Procedure[list[str]]:
        """Send messages that soon expire, and return their names as the server shows them."""
        trial, destination = new_id(), self.topology.trials
        expires = str(int((time.time() + TRIAL_SECONDS) * 1000))
        yield [
            Publication(destination, headers({"persistent": "false", "expires": expires, "trial": trial, **more}),
                        name.encode())
            for name, more in messages.items()
        ]  # fmt: skip
        shown: list[Frame] = yield Browse(destination, f"trial='{trial}'")
        return [message.body.decode(errors="replace") for message in shown]

    def broadcast(self, channel: str, payloads: Sequence[bytes]) -> Procedure[None]:
        destination = self.topology.topic(channel)
        yield [Publication(destination, PASSING, payload) for payload in payloads]

    def write_journal(self, channel: str, entries: Sequence[bytes]) -> Procedure[None]:
        topology = self.topology
        lasting = headers({**LASTING, **topology.dialect.of_journal})
        kept = [Publication(topology.journal, lasting, entry) for entry in entries]
        yield kept + [Publication(topology.topic(channel), PASSING, entry) for entry in entries]

    def losses(self, pushed: Pushed) -> int | None:
        return None if pushed.redelivered else 0

    # --- Connections ----------------------------------------------------------------------------------

    async def connect_worker(self, lease_seconds: float, name: str) -> StompWorkerConnection:
        connection = await self.server.open(max(1.0, lease_seconds / 2))
        return StompWorkerConnection(connection, self, self._uncounted)

    async def follow(self, connection: AioConnection, channel: str, take: Callable[[bytes], None],
                     ended: Ended) -> None:  # fmt: skip
        _, begun = connection.subscribe(lambda frame: take(frame.body), self.topology.topic(channel), "auto")
        await begun

    async def read_journal(self, connection: AioConnection, channel: str, keep: Keep) -> None:
        topology, dialect = self.topology, self.topology.dialect
        own = await self.server.open(60.0)  # its end puts back what is kept
        reading = MarkedReading[Frame]()
        own.on_lost = lambda: reading.fail(ConnectionLost(str(own.lost)))
        try:
            more = {dialect.window: MOST, **dialect.in_turn, **dialect.of_journal}
            own.subscribe(reading.take, topology.journal, more=more)
            lasting = headers({**LASTING, **dialect.of_journal})
            await own.publish([Publication(topology.journal, lasting, reading.mark)])
            own.acknowledge([frame.headers.get("ack", "") for frame in await reading.obsolete(keep)])
            own.on_lost = None
            await own.confirmed("DISCONNECT")
        finally:
            own.close()

    def inspection(self, connection: AioConnection) -> StompInspection:
        return StompInspection(connection, self, self._uncounted)
