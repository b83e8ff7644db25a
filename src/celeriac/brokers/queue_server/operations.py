"""Inspects and operates a queue server, as far as its protocol allows.

Messages can be counted, dropped and taken. They can be inspected only by taking them and putting them back, which the
server counts as a delivery: so `peek` records in the journal what it has inspected. Some servers drop a message that
was delivered too often (20 times, or as a policy says): one that has reached half of that is sent again instead, to
the end of its line. Delayed messages cannot be seen.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from celeriac.brokers.queue_server.again import again_when_lost
from celeriac.brokers.queue_server.envelope import Envelope, Parcel, read_dead, unpack
from celeriac.brokers.queue_server.journal import LOOKED_SECONDS, Journal, Looked, Paused, writing
from celeriac.brokers.queue_server.presence import ANSWER_SECONDS, Presence, call_roll
from celeriac.brokers.queue_server.sender import Sender
from celeriac.brokers.queue_server.topology import queues_of
from celeriac.brokers.queue_server.transport import Inspection, NotCounted, Taken
from celeriac.brokers.queue_server.waiting import WaitingMessages
from celeriac.errors import NotSupported
from celeriac.model.codec import Codec
from celeriac.model.message import LANES, Message
from celeriac.ports.operations import Dead, First, Operations, QueueCounts, WorkerInfo, anew, unreadable

__all__ = ["QueueServerOperations"]

MOST = 10_000  # messages that are taken to be inspected
WORN = 10  # deliveries, after which a message is sent again: a quorum queue drops it after 20, by default


class QueueServerOperations(Operations):
    """Inspects and operates."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._waiting = WaitingMessages(sender)
        self._transport = sender.transport
        self._clock = sender.clock

    # --- Queues ---------------------------------------------------------------------------------------

    @again_when_lost
    async def queues(self) -> list[QueueCounts]:
        async with self._inspecting() as (inspection, journal):
            topology = self._transport.topology
            kept = await self._waiting.counts()
            names = sorted({*queues_of(journal.lines), *journal.paused, *kept})
            ready, dead, uncounted = dict.fromkeys(names, 0), dict.fromkeys(names, 0), dict.fromkeys(names, "")
            for line in journal.lines:
                size, uncounted[line.queue] = await _size(inspection, topology.address(line), uncounted[line.queue])
                ready[line.queue] += size
            for name in names:
                dead[name], uncounted[name] = await _size(inspection, topology.dead(name), uncounted[name])
            presences = await self._call_roll(inspection)
        active = {name: sum(presence.held.get(name, 0) for presence in presences) for name in names}
        if self._transport.counts_held:
            ready = {name: max(0, count - active[name]) for name, count in ready.items()}
        found = [
            QueueCounts(queue=name, ready=ready[name] + due, scheduled=waiting, active=active[name], dead=dead[name],
                        paused=name in journal.paused, uncounted=uncounted[name])
            for name in names
            for due, waiting in [kept.get(name, (0, 0))]
        ]  # fmt: skip
        return [one for one in found
                if one.paused or one.ready or one.scheduled or one.active or one.dead or one.uncounted]  # fmt: skip

    @again_when_lost
    async def peek(self, queue: str, limit: int, offset: int = 0) -> list[Message]:
        async with self._inspecting() as (inspection, journal):
            found: list[Message] = []
            for address in self._addresses(journal, queue):
                if len(found) >= offset + limit:
                    break
                async with inspection.looking(address, offset + limit - len(found)) as taken:
                    messages, worn = await self._look(journal, taken, queue)
                    found += messages
                    await self._send_again(address, taken, worn)
        found += await self._waiting.page(queue, True, offset + limit - len(found))
        return found[offset : offset + limit]

    async def _look(self, journal: Journal, taken: Taken, queue: str) -> tuple[list[Message], dict[int, bytes]]:
        """Read messages, and record that they were inspected; return also what to send instead of worn ones, by tag."""
        found: list[Message] = []
        looks: dict[str, int] = {}
        worn, codec = self._worn(taken), self._transport.codec
        for pushed in taken.messages:
            try:
                envelope = unpack(pushed.body, queue, codec)
            except ValueError as error:
                found.append(unreadable(pushed.body, queue, str(error)).message)  # a worker puts it aside
                continue
            message = envelope.message
            found.append(message)
            counted, looked = self._transport.losses(pushed), journal.looks.get(message.id, 0)
            if pushed.tag in worn:
                lost = max(0, (counted or 0) - looked)
                worn[pushed.tag] = Envelope(message, envelope.deliveries + lost, again=True).pack(codec)
                looks[message.id] = 0
            elif taken.copies:
                continue
            elif not pushed.redelivered:
                looks[message.id] = 1
            elif counted is not None:
                looks[message.id] = looked + 1
        if looks:
            entry = Looked(looks, self._clock.now() + LOOKED_SECONDS)
            await self._transport.ado(lambda: writing(self._transport, [entry]))
        return found, worn

    def _worn(self, taken: Taken) -> dict[int, bytes]:
        """Return the messages that the server is about to drop, by tag."""
        losses = self._transport.losses
        return {} if taken.copies else {one.tag: one.body for one in taken.messages if (losses(one) or 0) >= WORN}

    async def _send_again(self, address: str, taken: Taken, worn: dict[int, bytes]) -> None:
        """Replace worn messages by new ones, so that the server does not drop them."""
        if worn:
            await self._sender.send((), [Parcel(address, body) for body in worn.values()])
            taken.acknowledge(list(worn))

    async def scheduled(self, queue: str | None, limit: int, offset: int = 0) -> list[Message]:
        await self._see_scheduled("list delayed messages")
        return await self._waiting.page(queue, False, limit, offset)

    async def run_now(self, ids: Sequence[str]) -> int:
        await self._see_scheduled("find a delayed message, so it cannot run one before it is due")
        return await self._waiting.send(ids, anew=True)

    async def _see_scheduled(self, what: str) -> None:
        if await self._waiting.store() is None:
            raise NotSupported(f"{self._transport.product} cannot {what}. SQLite and Redis can, and so can a "
                               "result backend that keeps delayed messages (`broker_delays`): see docs/brokers.md."
                               )  # fmt: skip

    async def find(self, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        raise NotSupported(f"{self._transport.product} cannot find a message by its id. SQLite and Redis can: see "
                           "docs/brokers.md.")  # fmt: skip

    @again_when_lost
    async def revoked(self, ids: Sequence[str]) -> set[str]:
        now = self._clock.now()
        async with self._inspecting() as (_, journal):
            return {id for id in ids if journal.revoked.get(id, 0.0) > now}

    async def withdraw(self, queue: str, limit: int, first: First | None = None) -> list[Message]:
        async with self._inspecting() as (inspection, journal):
            found: list[Message] = []
            for address in self._addresses(journal, queue):
                if len(found) < limit:
                    async with inspection.taking(address, limit - len(found)) as taken:
                        messages = [_readable(one.body, queue, self._transport.codec) for one in taken.messages]
                        if first is not None and messages:
                            await first(messages)
                        taken.acknowledge([pushed.tag for pushed in taken.messages])
                        found += messages
        return found + await self._waiting.withdraw(queue, limit - len(found), first)

    async def pause(self, queue: str) -> None:
        await self._transport.ado(lambda: writing(self._transport, [Paused(queue, paused=True)]))

    async def resume(self, queue: str) -> None:
        await self._transport.ado(lambda: writing(self._transport, [Paused(queue, paused=False)]))

    # --- Dead letters ---------------------------------------------------------------------------------

    @again_when_lost
    async def dead(self, queue: str | None, limit: int, offset: int = 0) -> list[Dead]:
        async with self._inspecting() as (inspection, journal):
            found: list[Dead] = []
            topology = self._transport.topology
            if queue is not None:
                topology.check(queue)
            for name in [queue] if queue is not None else queues_of(journal.lines):
                async with inspection.looking(topology.dead(name), MOST) as taken:
                    found += [read_dead(pushed.body, name, self._transport.codec) for pushed in taken.messages]
                    await self._send_again(topology.dead(name), taken, self._worn(taken))
        return sorted(found, key=lambda letter: letter.at)[::-1][offset : offset + limit]

    async def resend(self, ids: Sequence[str]) -> int:
        async def again(letters: Sequence[Dead]) -> None:
            codec = self._transport.codec
            await self._sender.send([Envelope(anew(letter.message, codec, skip=1)) for letter in letters])

        return await self._remove(ids, again)

    async def drop(self, ids: Sequence[str]) -> int:
        return await self._remove(ids)

    async def _remove(self, ids: Sequence[str],
                      first: Callable[[Sequence[Dead]], Awaitable[None]] | None = None) -> int:  # fmt: skip
        """Remove dead letters, after `first` was called with them; return how many there were."""
        wanted, total = set(ids), 0
        async with self._inspecting() as (inspection, journal):
            for queue in queues_of(journal.lines):
                address = self._transport.topology.dead(queue)
                async with inspection.taking(address, MOST) as taken:
                    codec = self._transport.codec
                    letters = [(pushed.tag, read_dead(pushed.body, queue, codec)) for pushed in taken.messages]
                    meant = {tag: letter for tag, letter in letters if letter.message.id in wanted}
                    if meant:
                        if first is not None:
                            await first(list(meant.values()))
                        taken.acknowledge(list(meant))
                        total += len(meant)
                    worn = {tag: body for tag, body in self._worn(taken).items() if tag not in meant}
                    await self._send_again(address, taken, worn)
        return total

    # --- Workers --------------------------------------------------------------------------------------

    @again_when_lost
    async def workers(self) -> list[WorkerInfo]:
        async with self._connected() as inspection:
            presences = await self._call_roll(inspection)
        now = self._clock.now()
        return [presence.worker for presence in presences if presence.worker.expires_at > now]

    async def _call_roll(self, inspection: Inspection) -> list[Presence]:
        return await call_roll(self._sender, await inspection.workers())

    # --- The connection -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Inspection, None]:
        await self._transport.learn()
        within = self._transport.timeout + ANSWER_SECONDS
        async with self._transport.inspecting() as inspection, self._transport.answering(within):
            yield inspection

    @asynccontextmanager
    async def _inspecting(self) -> AsyncGenerator[tuple[Inspection, Journal], None]:
        """Lend a connection, and what the journal says."""
        async with self._connected() as inspection:
            journal = Journal(self._transport, self._clock)
            await journal.read(inspection)
            yield inspection, journal

    def _addresses(self, journal: Journal, queue: str) -> list[str]:
        """Return the addresses of a queue's lines, in the order in which they are served."""
        topology = self._transport.topology
        topology.check(queue)
        lines = {topology.usual(queue, lane) for lane in LANES} | {one for one in journal.lines if one.queue == queue}
        ordered = sorted(lines, key=lambda line: (-(line.priority or 0), LANES.index(line.lane)))
        return [topology.address(line) for line in ordered]



def _readable(body: bytes, queue: str, codec: Codec) -> Message:
    try:
        return unpack(body, queue, codec).message
    except ValueError as error:
        return unreadable(body, queue, str(error)).message


async def _size(inspection: Inspection, address: str, why: str) -> tuple[int, str]:
    """Return the size of a queue, and why it, or an earlier one, is only what it has at least."""
    try:
        return await inspection.size(address), why
    except NotCounted as error:
        return error.at_least, str(error)
