"""Looking into an AMQP broker, and operating it, as far as AMQP lets one.

Messages can be counted, dropped and taken; they can be looked at only by taking them and giving them back, which the
server counts as a delivery: so `peek` writes into the journal what it has looked at. A quorum queue drops what was
delivered too often (20 times, or as a policy says): what has come half the way is sent anew instead, to the end of its
line. What waits for its time cannot be seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pamqp import commands

from celeriac.brokers.amqp.envelope import Envelope, losses, read_dead, unpack
from celeriac.brokers.amqp.journal import CHANNEL, LOOKED_SECONDS, Journal, Looked, Paused, writing
from celeriac.brokers.amqp.presence import ANSWER_SECONDS, Presence, call_roll
from celeriac.brokers.amqp.sender import Sender
from celeriac.drivers.amqp.aio import AioConnection, Channel
from celeriac.drivers.amqp.error_translation import ChannelClosed, silent
from celeriac.drivers.amqp.frames import Content, Publication, acknowledge, method, properties
from celeriac.drivers.amqp.topology import Line, queues_of
from celeriac.errors import NotSupported
from celeriac.model.message import LANES, Message
from celeriac.ports.operations import Dead, Operations, QueueCounts, WorkerInfo, anew, unreadable

__all__ = ["AmqpOperations"]

MOST = 10_000  # messages that are taken to be looked at
WORN = 10  # deliveries after which a quorum queue is near its limit, 20 by default, and drops a message


class _Taken:
    """Messages that were taken from an AMQP queue, to be given back."""

    def __init__(self, name: str, channel: Channel, contents: list[Content]) -> None:
        self.name = name
        self.contents = contents
        self.worn = {content.tag: content.body for content in contents if (losses(content) or 0) >= WORN}
        self._channel = channel

    def acknowledge(self, tags: Sequence[int]) -> None:
        """Let messages be gone."""
        for tag in tags:
            self._channel.tell(acknowledge(self._channel.number, tag, multiple=False))
            self.worn.pop(tag, None)


class AmqpOperations(Operations):
    """Looking and operating."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._server = sender.server
        self._clock = sender.clock

    # --- Queues ---------------------------------------------------------------------------------------

    async def queues(self) -> list[QueueCounts]:
        async with self._looking() as (connection, journal):
            topology = self._server.topology
            names = sorted({*queues_of(journal.lines), *journal.paused})
            ready = dict.fromkeys(names, 0)
            for line in journal.lines:
                ready[line.queue] += await self._size(connection, topology.name(line))
            dead = {name: await self._size(connection, topology.dead(name)) for name in names}
            presences = await self._roll(connection)
        found = [
            QueueCounts(queue=name, ready=ready[name], dead=dead[name], paused=name in journal.paused,
                        active=sum(presence.held.get(name, 0) for presence in presences))
            for name in names
        ]  # fmt: skip
        return [counts for counts in found if counts.paused or counts.ready or counts.active or counts.dead]

    async def peek(self, queue: str, limit: int, offset: int = 0) -> list[Message]:
        async with self._looking() as (connection, journal):
            found: list[Message] = []
            for name in self._names(journal, queue):
                if len(found) >= offset + limit:
                    break
                async with self._taken(connection, name, offset + limit - len(found)) as taken:
                    found += await self._look(journal, taken)
            return found[offset : offset + limit]

    async def _look(self, journal: Journal, taken: _Taken) -> list[Message]:
        """Read what was taken, and see to it that looking is not counted as a delivery."""
        found: list[Message] = []
        looks: dict[str, int] = {}
        for content in taken.contents:
            try:
                parcel = unpack(content.body)
            except ValueError:
                found.append(unreadable(content.body, taken.name).message)  # a worker puts it aside
                continue
            message = parcel.message
            found.append(message)
            counted, looked = losses(content), journal.looks.get(message.id, 0)
            if content.tag in taken.worn:
                lost = max(0, (counted or 0) - looked)
                taken.worn[content.tag] = Envelope(message, parcel.deliveries + lost, again=True).pack()
                looks[message.id] = 0
            elif not content.redelivered:
                looks[message.id] = 1
            elif counted is not None:
                looks[message.id] = looked + 1
        if looks:
            entry = Looked(looks, self._clock.now() + LOOKED_SECONDS)
            await self._server.ado(lambda: writing(self._server, [entry]))
        return found

    async def scheduled(self, queue: str | None, limit: int, offset: int = 0) -> list[Message]:
        raise NotSupported("RabbitMQ cannot list what waits for its time. SQLite and Redis can: see docs/brokers.md.")

    async def find(self, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        raise NotSupported("RabbitMQ cannot find a message by its id. SQLite and Redis can: see docs/brokers.md.")

    async def purge(self, queue: str) -> int:
        async with self._looking() as (connection, journal):
            dropped = 0
            for name in self._names(journal, queue):
                channel = await connection.channel()
                try:
                    dropped += (await channel.call(commands.Queue.Purge(queue=name))).message_count
                    channel.close()
                except ChannelClosed:
                    continue  # it was deleted
            return dropped

    async def pause(self, queue: str) -> None:
        await self._server.ado(lambda: writing(self._server, [Paused(queue, paused=True)]))

    async def resume(self, queue: str) -> None:
        await self._server.ado(lambda: writing(self._server, [Paused(queue, paused=False)]))

    # --- Dead letters ---------------------------------------------------------------------------------

    async def dead(self, queue: str | None, limit: int, offset: int = 0) -> list[Dead]:
        async with self._looking() as (connection, journal):
            found: list[Dead] = []
            if queue is not None:
                self._server.topology.check(queue)
            for name in [queue] if queue is not None else queues_of(journal.lines):
                async with self._taken(connection, self._server.topology.dead(name), MOST) as taken:
                    found += [read_dead(content.body, name) for content in taken.contents]
        return sorted(found, key=lambda letter: letter.at)[::-1][offset : offset + limit]

    async def resend(self, ids: Sequence[str]) -> int:
        async def again(letters: Sequence[Dead]) -> None:
            await self._sender.send([Envelope(anew(letter.message)) for letter in letters])

        return await self._bring_out(ids, again)

    async def drop(self, ids: Sequence[str]) -> int:
        async def forget(letters: Sequence[Dead]) -> None:
            pass

        return await self._bring_out(ids, forget)

    async def _bring_out(self, ids: Sequence[str], what: Callable[[Sequence[Dead]], Any]) -> int:
        wanted, total = set(ids), 0
        async with self._looking() as (connection, journal):
            for queue in queues_of(journal.lines):
                async with self._taken(connection, self._server.topology.dead(queue), MOST) as taken:
                    letters = [(content.tag, read_dead(content.body, queue)) for content in taken.contents]
                    meant = [(tag, letter) for tag, letter in letters if letter.message.id in wanted]
                    if meant:
                        await what([letter for _, letter in meant])
                        taken.acknowledge([tag for tag, _ in meant])
                        total += len(meant)
        return total

    # --- Workers --------------------------------------------------------------------------------------

    async def workers(self) -> list[WorkerInfo]:
        async with self._connected() as connection:
            presences = await self._roll(connection)
        now = self._clock.now()
        return [presence.worker for presence in presences if presence.worker.expires_at > now]

    async def _roll(self, connection: AioConnection) -> list[Presence]:
        """Ask all workers who they are."""
        present = await self._consumers(connection, self._server.topology.roll)
        return await call_roll(self._server, present, self._sender.broadcast)

    # --- On the wire ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[AioConnection, None]:
        """Lend a connection of our own, so that nothing of ours disturbs who publishes."""
        await self._server.learn()
        connection = await self._server.open(60.0, "celeriac looks")
        try:
            async with asyncio.timeout(self._server.timeout + ANSWER_SECONDS):
                yield connection
        except OSError as error:
            raise silent(error, self._server.address, self._server.timeout) from error
        finally:
            connection.close()

    @asynccontextmanager
    async def _looking(self) -> AsyncGenerator[tuple[AioConnection, Journal], None]:
        async with self._connected() as connection:
            channel = await connection.channel()
            for what in self._server.topology.declare_journal(CHANNEL):
                await channel.call(what)
            journal = Journal(self._server, self._clock)
            await journal.read(connection)
            yield connection, journal

    def _names(self, journal: Journal, queue: str) -> list[str]:
        """Return the AMQP queues of a queue, in the order in which they are served."""
        topology = self._server.topology
        topology.check(queue)
        lines = {topology.usual(queue, lane) for lane in LANES} | {one for one in journal.lines if one.queue == queue}
        ordered: list[Line] = sorted(lines, key=lambda line: (-(line.priority or 0), LANES.index(line.lane)))
        return [topology.name(line) for line in ordered]

    async def _size(self, connection: AioConnection, name: str) -> int:
        return (await self._declared(connection, name))[0]

    async def _consumers(self, connection: AioConnection, name: str) -> int:
        return (await self._declared(connection, name))[1]

    async def _declared(self, connection: AioConnection, name: str) -> tuple[int, int]:
        """Return how many messages are ready in a queue, and how many consume from it."""
        channel = await connection.channel()
        try:
            answer = await channel.call(commands.Queue.Declare(queue=name, passive=True))
        except ChannelClosed:
            return 0, 0  # there is none
        channel.close()
        return answer.message_count, answer.consumer_count

    @asynccontextmanager
    async def _taken(self, connection: AioConnection, name: str,
                     limit: int) -> AsyncGenerator[_Taken, None]:  # fmt: skip
        """Take up to so many messages from a queue, and give back, at the end, what was not acknowledged.

        Given back too often, it would be dropped: what is worn is sent anew, and then acknowledged.
        """
        size = min(limit, await self._size(connection, name))
        channel = await connection.channel()
        try:
            asked = [channel.ask(commands.Basic.Get(queue=name)) for _ in range(size)]
            contents = [answer for one in asked if isinstance(answer := await one, Content)]
            taken = _Taken(name, channel, contents)
            yield taken
            if taken.worn:
                fresh = [Publication("", name, properties(), body) for body in taken.worn.values()]
                await self._sender.send((), fresh)
                taken.acknowledge(list(taken.worn))
            if contents:
                channel.tell(method(channel.number, commands.Basic.Nack(0, multiple=True, requeue=True)))
                await channel.call(commands.Basic.Qos(prefetch_count=0))  # all before it has been done
        finally:
            channel.close()
