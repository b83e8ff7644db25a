"""One AMQP server. Procedures yield calls (pamqp methods) and lists of publications.

`do` drives them on a blocking connection from a pool, `ado` on the event loop's own connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast

from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.aio import AioConnection
from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.dialect import RABBITMQ
from celeriac.drivers.amqp.error_translation import ChannelClosed, Refused
from celeriac.drivers.amqp.opening import Facts
from celeriac.drivers.amqp.session import Session
from celeriac.drivers.blocking_server import LONG_PAUSE, BlockingServer
from celeriac.drivers.procedures import Procedure, adrive
from celeriac.errors import BrokerError, BrokerUnavailable, ImproperlyConfigured
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["FRESH_SECONDS", "Server", "each"]

Result = TypeVar("Result")

QUEUE_TYPES = ("auto", "quorum", "classic")
FRESH_SECONDS = 60.0  # for which a worker, or a caller, of a cluster consumes in the same channel: see work_channel.py


class Server(BlockingServer[AioConnection, Connection]):
    """An AMQP server (one host, or the nodes of a cluster), and the prefix of Celeriac's own names on it."""

    address: Address
    silent_when_blocked = True
    facts: Facts  # known when the first connection is open
    quorum: bool  # likewise: whether to declare quorum queues

    def __init__(self, url: str, prefix: str = "celeriac", queue_type: str = "auto", timeout: float = 10.0,
                 codec: Codec = PLAIN_CODEC) -> None:  # fmt: skip
        if queue_type not in QUEUE_TYPES:
            raise ImproperlyConfigured(f"amqp_queue_type: one of {', '.join(QUEUE_TYPES)}, not {queue_type!r}.")
        super().__init__(Address.of(url), prefix, timeout, codec)
        nodes = len(self.address.hosts)
        self._silence = timeout / nodes if nodes > 1 else None  # … of a node, after which a request goes to another
        self._queue_type = queue_type

    # --- Procedures -----------------------------------------------------------------------------------

    def advice(self, is_blocked: bool) -> str:
        dialect, host = self.facts.dialect if self.known else RABBITMQ, self.address.hosts[0][0]
        command = f"On {host}: `rabbitmq-diagnostics {'alarms' if is_blocked else 'ping'}`"
        return dialect.advice(command) or super().advice(is_blocked)

    def usable_after(self, error: BaseException) -> bool:
        # The channel that has refused a message may stay refused: session.py says why.
        return isinstance(error, ChannelClosed) and not isinstance(error, Refused)

    def passes(self, error: BrokerError) -> bool:
        return isinstance(error, ChannelClosed) and error.passes

    def answer_blocking(self, connection: Connection, ask: Any, deadline: float) -> Any:
        if isinstance(ask, list):
            return connection.publish(ask, max(0.01, deadline - time.monotonic()))
        return connection.call(ask, deadline)

    async def answer(self, connection: AioConnection, ask: Any, alone: bool = False) -> Any:
        session = self.session()
        if not isinstance(ask, list):
            return await session.call(ask)
        return await (session.publish_alone(ask) if alone else session.publish(ask))

    async def ado(self, procedure: Procedure[Result], within: float | None = None) -> Result:
        timeout = self.timeout if within is None else within
        deadline = time.monotonic() + timeout
        alone = False
        while True:
            try:
                return await self.repeat(
                    lambda connection, alone=alone: adrive(procedure(), partial(self.answer, connection, alone=alone)),  # type: ignore[misc]
                    deadline, timeout,
                )  # fmt: skip
            except ChannelClosed as error:
                if error.shared and not alone:
                    alone = True
                    continue
                if not error.passes:
                    raise
                if time.monotonic() + LONG_PAUSE > deadline:
                    raise BrokerUnavailable(str(error)) from error
            await asyncio.sleep(LONG_PAUSE)

    @asynccontextmanager
    async def answering(self, within: float | None = None) -> AsyncGenerator[None, None]:
        try:
            async with super().answering(within):
                yield
        except ChannelClosed as error:  # it may refuse only for now
            if not error.passes:
                raise
            raise BrokerUnavailable(str(error)) from error

    # --- Connections ----------------------------------------------------------------------------------

    def connect_blocking(self, within: float) -> Connection:
        connection = Connection(self.address, within, self.hosts, self._silence)
        self._know(connection.facts)
        return connection

    async def connect_loop(self, heartbeat: float, name: str) -> AioConnection:
        connection = await AioConnection.connect(self.address, self.timeout, heartbeat, name, self.hosts)
        self._know(connection.facts)
        return connection

    async def _opened(self) -> AioConnection:
        session = self.session()
        async with session.opening:
            if session.connection is None or session.connection.lost is not None:
                session.forget()
                session.connection = await AioConnection.connect(
                    self.address, self.timeout, hosts=self.hosts, silence=self._silence
                )
                self._know(session.connection.facts)
            return session.connection

    def _know(self, facts: Facts) -> None:
        if not self.known:
            if self._queue_type == "quorum" and not facts.has_quorum:
                raise ImproperlyConfigured(f"{facts.product} {facts.version} at {self.address} does not have what "
                                           "`amqp_queue_type = 'quorum'` needs: RabbitMQ 3.10 or later has.")
            self.quorum = self._queue_type == "quorum" or (self._queue_type == "auto" and self._prefers_quorum(facts))
            self.facts, self.product, self.known = facts, facts.dialect.product, True

    def _prefers_quorum(self, facts: Facts) -> bool:
        """Say whether `auto` is quorum: where there is a cluster, which loses the queues of a node otherwise."""
        return facts.prefers_quorum or (facts.has_quorum and len(self.address.hosts) > 1)

    @property
    def is_cluster(self) -> bool:
        """Whether these are several nodes that share their queues; known when the first connection is open."""
        return self.quorum and len(self.address.hosts) > 1

    @property
    def may_lose_delayed(self) -> bool:
        """Whether this is a cluster that may lose delayed messages; known when the first connection is open."""
        return self.is_cluster and self.facts.may_lose_delayed

    def session(self) -> Session:
        return cast(Session, super().session())

    def new_session(self) -> Session:
        return Session()


def each(methods: Iterable[Any]) -> Generator[Any, Any, None]:
    """Call methods one after the other: a procedure."""
    for method in methods:  # noqa: UP028 - `yield from` a list cannot receive answers
        yield method
