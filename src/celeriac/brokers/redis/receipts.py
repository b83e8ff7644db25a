"""A lease's books: its requests for messages, and what was handed out for them.

A token is `lease:receipt:deliveries`; Redis holds `receipt:deliveries` under the lease and the message's id, and what
differs is stale. Neither leases nor the receipts of one are used twice. A receipt below 0 marks what was taken over.

A request whose answer does not come (a lost connection, a cancelled wait) may have been carried out, or may be yet: its
receipts are in doubt. `recover` gives back what was handed out for them, and puts up a fence that refuses such a
request if it comes later; so a receive has either given its messages to its caller, or taken none.

A server that comes back may be some moments younger than it was: a replica that was promoted before it had everything,
or one whose last writes were not on disk. What had been settled in those moments is held again, and nobody would ever
settle it. So after each new connection the lease compares what it holds there with what it has handed out here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from celeriac.brokers.redis.envelope import decode
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
    """What a lease has asked for, is in doubt of, and has in hand."""

    def __init__(self, server: Server, clock: Clock, lease: str) -> None:
        self.in_hand: set[str] = set()  # tokens of what was handed out and is not settled
        self._server = server
        self._clock = clock
        self._lease = lease
        self._receipts = 0
        self._asking: set[int] = set()  # receipts after which requests that are on their way hand out more
        self._doubts: set[tuple[int, int]] = set()  # receipts after the first, up to the second
        self._unreadable: dict[int, str] = {}  # by receipt, below 0 where it was taken over: why
        self._recovering: asyncio.Task[None] | None = None
        self._compared = server.connections()  # how many there had been when the two sides were compared

    # --- Requests -------------------------------------------------------------------------------------

    def draw(self, count: int) -> int:
        """Return the receipt after which so many are a new request's, which is on its way until `came`."""
        base, self._receipts = self._receipts, self._receipts + count
        self._asking.add(base)
        return base

    def came(self, base: int) -> None:
        """Note that a request is not on its way any more."""
        self._asking.remove(base)

    def handed_out(self, request: Request, blobs: Sequence[bytes], exceptions: Sequence[int]) -> list[Delivery]:
        """Return what was handed out for a request, in the order of its receipts."""
        lease, first = self._lease, request.base + 1
        unreadable: dict[int, str] = {}
        try:
            taken = [Delivery(decode(value), f"{lease}:{receipt}:1") for receipt, value in enumerate(blobs, first)]
        except ValueError:
            taken, unreadable = self._looked_through(blobs, first)
        for i in range(0, len(exceptions), 3):
            index, deliveries, revoked = exceptions[i : i + 3]
            token = f"{lease}:{first + index}:{deliveries}"
            taken[index] = replace(taken[index], token=token, deliveries=deliveries, revoked=bool(revoked))
        if unreadable:
            taken = [delivery for receipt, delivery in enumerate(taken, first) if receipt not in unreadable]
            self.put_aside(unreadable)
        self.in_hand.update([delivery.token for delivery in taken])
        return taken

    def _looked_through(self, blobs: Sequence[bytes], first: int) -> tuple[list[Delivery], dict[int, str]]:
        """Return a delivery for each, something in place of what cannot be read, and why, by receipt."""
        taken: list[Delivery] = []
        unreadable: dict[int, str] = {}
        for receipt, value in enumerate(blobs, first):
            try:
                message = decode(value)
            except ValueError as error:
                message = Message(id="", task="")
                unreadable[receipt] = str(error)
            taken.append(Delivery(message, f"{self._lease}:{receipt}:1"))
        return taken, unreadable

    # --- Doubts ---------------------------------------------------------------------------------------

    def doubt(self, request: Request) -> None:
        """Note that nobody has what was handed out for a request. It is given back soon, or before the next request."""
        self._doubts.add(request.receipts)
        self._recover_soon()

    def put_aside(self, unreadable: Mapping[int, str]) -> None:
        """Note what cannot be read, and why, by receipt. It becomes a dead letter soon, or before the next request."""
        self._unreadable.update(unreadable)
        self._recover_soon()

    def _recover_soon(self) -> None:
        if self._recovering is None or self._recovering.done():
            with contextlib.suppress(RuntimeError):  # the loop is closing
                self._recovering = asyncio.ensure_future(self._keep_recovering())

    async def recover(self) -> None:
        """Give back what is in doubt, and bury what cannot be read."""
        doubts = set(self._doubts)
        if doubts:
            ranges = itertools.chain.from_iterable(doubts)
            await self._server.ado(self._server.script("recover", self._lease, self._receipts, *ranges))
            self._doubts -= doubts
        if self._unreadable:
            whys = {receipt: f"it cannot be read: {error}" for receipt, error in self._unreadable.items()}
            pairs = itertools.chain.from_iterable(whys.items())
            moment = self._server.moment(self._clock)
            await self._server.ado(self._server.script("bury", moment, self._lease, *pairs))
            for receipt, why in whys.items():
                if self._unreadable.pop(receipt, None) is not None:
                    log.error("A message was put aside as a dead letter: %s", why)

    async def _keep_recovering(self) -> None:
        while self._doubts or self._unreadable:
            try:
                await self.recover()
            except BrokerError:
                await asyncio.sleep(RECOVER_PAUSE)

    async def compare(self) -> list[int]:
        """After a new connection, return the receipts of what the server says we hold, and we do not.

        Raises `LeaseLost`.
        """
        connections = self._server.connections()
        if connections == self._compared:
            return []
        last = min(self._asking, default=self._receipts)
        proofs = [token.partition(":")[2] for token in self.in_hand]
        found = await self._server.ado(self._server.script("compare", self._lease, last, *proofs))
        if found == 0:
            raise LeaseLost
        self._compared = connections
        return list(found)

    def close(self) -> None:
        """Recover no more: all that the lease holds is given back."""
        if self._recovering is not None:
            self._recovering.cancel()
