"""The receipts of a lease: which messages it holds, and which requests for messages have no reply yet.

A token is `lease:receipt:deliveries`. Redis stores `receipt:deliveries` under the lease and the message's id; a token
that differs is stale. Neither a lease's name nor one of its receipts is ever used twice. A receipt below 0 marks a
message that was taken over from a dead worker and must not be run again.

A request whose reply does not arrive (the connection was lost, the wait was cancelled) may have been carried out, or
may still be: its receipts are in doubt. `recover` returns the messages delivered for them to their queues, and sets a
fence that makes Redis refuse the request if it arrives later. So a receive has either given its messages to its caller,
or taken none.

A server that comes back may have older data: a replica that was promoted before it had received everything, or a server
whose last writes were not on disk. Messages settled in the meantime are held again, and no worker would ever settle
them. So after each new connection the lease compares what it holds on the server with what it has received here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from celeriac.brokers.redis.envelope import unpack
from celeriac.brokers.redis.requests import Request
from celeriac.drivers.redis.server import Server
from celeriac.errors import BrokerError, LeaseLost
from celeriac.model.clock import Clock
from celeriac.model.message import Message
from celeriac.ports.broker import Delivery

__all__ = ["Receipts"]

log = logging.getLogger("celeriac.redis")

RECOVER_PAUSE = 0.5  # seconds


class Receipts:
    """The receipts of one lease. Used by `RedisLease`."""

    def __init__(self, server: Server, clock: Clock, lease: str) -> None:
        self.held: set[str] = set()  # tokens of deliveries that are not settled
        self._server = server
        self._clock = clock
        self._lease = lease
        self._last = 0  # the last receipt given to a request
        self._pending: set[int] = set()  # base receipts of requests without a reply
        self._doubts: set[tuple[int, int]] = set()  # ranges of receipts: above the first, up to the second
        self._unreadable: dict[int, str] = {}  # reasons by receipt (below 0 if the message was taken over)
        self._recovering: asyncio.Task[None] | None = None
        self._compared = server.connections()  # how many connections there had been at the last comparison

    # --- Requests -------------------------------------------------------------------------------------

    def start(self, count: int) -> int:
        """Return the base receipt of a new request for so many messages. It is pending until `finish`."""
        base, self._last = self._last, self._last + count
        self._pending.add(base)
        return base

    def finish(self, base: int) -> None:
        """Note that a request is not pending any more."""
        self._pending.remove(base)

    def deliveries(self, request: Request, blobs: Sequence[bytes], exceptions: Sequence[int],
                   runs: Sequence[Any]) -> list[Delivery]:  # fmt: skip
        """Return the deliveries of a reply, in the order of their receipts. `runs`: see deliver.lua."""
        lease, first, codec = self._lease, request.base + 1, self._server.codec
        found: list[Delivery] = []
        unreadable: dict[int, str] = {}
        for i in range(0, len(runs), 2):
            queue, start = runs[i + 1].decode(), len(found)
            run = blobs[start : start + runs[i]]
            try:
                found += [
                    Delivery(unpack(value, queue, codec), f"{lease}:{receipt}:1")
                    for receipt, value in enumerate(run, first + start)
                ]
            except ValueError:
                found += self._unpack_each(run, queue, first + start, unreadable)
        for i in range(0, len(exceptions), 3):
            index, deliveries, revoked = exceptions[i : i + 3]
            token = f"{lease}:{first + index}:{deliveries}"
            found[index] = replace(found[index], token=token, deliveries=deliveries, revoked=bool(revoked))
        if unreadable:
            found = [delivery for receipt, delivery in enumerate(found, first) if receipt not in unreadable]
            self.bury(unreadable)
        self.held.update([delivery.token for delivery in found])
        return found

    def _unpack_each(self, run: Sequence[bytes], queue: str, first: int,
                     unreadable: dict[int, str]) -> list[Delivery]:  # fmt: skip
        """Return a delivery for each blob: with an empty message if it is unreadable; note the reason by receipt."""
        found: list[Delivery] = []
        for receipt, value in enumerate(run, first):
            try:
                message = unpack(value, queue, self._server.codec)
            except ValueError as error:
                message = Message(id="", task="")
                unreadable[receipt] = str(error)
            found.append(Delivery(message, f"{self._lease}:{receipt}:1"))
        return found

    # --- Doubts ---------------------------------------------------------------------------------------

    def doubt(self, request: Request) -> None:
        """Have the messages of a request returned to their queues: soon, and before the next request."""
        self._doubts.add(request.receipts)
        self._recover_soon()

    def bury(self, unreadable: Mapping[int, str]) -> None:
        """Have unreadable messages (reasons by receipt) made dead letters: soon, and before the next request."""
        self._unreadable.update(unreadable)
        self._recover_soon()

    def _recover_soon(self) -> None:
        if self._recovering is None or self._recovering.done():
            with contextlib.suppress(RuntimeError):  # the loop is closing
                self._recovering = asyncio.ensure_future(self._keep_recovering())

    async def recover(self) -> None:
        """Return messages in doubt to their queues, and make dead letters of unreadable ones."""
        doubts = set(self._doubts)
        if doubts:
            ranges = itertools.chain.from_iterable(doubts)
            await self._server.ado(self._server.script("recover", self._lease, self._last, *ranges))
            self._doubts -= doubts
        if self._unreadable:
            reasons = {receipt: f"it cannot be read: {error}" for receipt, error in self._unreadable.items()}
            pairs = itertools.chain.from_iterable(reasons.items())
            moment = self._server.moment(self._clock)
            await self._server.ado(self._server.script("bury", moment, self._lease, *pairs))
            for receipt, reason in reasons.items():
                if self._unreadable.pop(receipt, None) is not None:
                    log.error("A message is now a dead letter: %s", reason)

    async def _keep_recovering(self) -> None:
        while self._doubts or self._unreadable:
            try:
                await self.recover()
            except BrokerError:
                await asyncio.sleep(RECOVER_PAUSE)

    async def compare(self) -> list[int]:
        """After a new connection, return receipts of messages that this lease took over and nobody has settled.

        The other messages that the server says this lease holds, and that it has not received, go back to their queues.
        Raises `LeaseLost`.
        """
        connections = self._server.connections()
        if connections == self._compared:
            return []
        last = min(self._pending, default=self._last)
        proofs = [token.partition(":")[2] for token in self.held]
        found = await self._server.ado(self._server.script("compare", self._lease, last, *proofs))
        if found == 0:
            raise LeaseLost
        self._compared = connections
        return list(found)

    def close(self) -> None:
        """Stop recovering: the end of the lease returns all that it holds."""
        if self._recovering is not None:
            self._recovering.cancel()
