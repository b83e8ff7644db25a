"""A remote worker: one in any language, in a process of its own, that works through the HTTP API.

Its client asks for deliveries, runs them, and says how they ended; this is what happens to them in between, the same as
in a worker of Celeriac's own: `receiver.py` ends what must not run, `decide.py` and `settler.py` settle. The endpoints
of the HTTP API (`web/leases.py`) call it; `gateway.py` keeps it.

Nothing of it has to survive. A lease is in the broker, and so is every delivery; a token says under which lease it was
given, and for which message. A process that has never heard of a token *adopts* its lease: it asks the broker for the
delivery, renews that lease and settles under it. So the process that serves a client may be killed and started again,
and there may be several. Each opens a lease of its own for what it receives.

A client says with each request which tokens it *holds*: what it has received, and what has not been settled with an
answer. What was received for it here and is not among them, it has never got: the answer was lost. That goes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from celeriac import __about__
from celeriac.app.app import Celeriac
from celeriac.errors import BackendError, BrokerError, LeaseLost
from celeriac.model.message import COROUTINE, PLAIN
from celeriac.ports.abilities import Ability
from celeriac.ports.broker import Claim, Delivery, Lease
from celeriac.ports.operations import WorkerInfo
from celeriac.worker.decide import Ending
from celeriac.worker.options import WorkerOptions
from celeriac.worker.pools.pool import give_back
from celeriac.worker.remote_receiver import RemoteReceiver
from celeriac.worker.remote_tokens import claim_of, token_of
from celeriac.worker.settler import Settler

__all__ = ["MOST_HELD", "Held", "Received", "Registration", "RemoteWorker", "Renewed"]

log = logging.getLogger("celeriac.worker")

MOST_HELD: Final = 1000  # deliveries of one remote worker
MOST_SETTLED: Final = 10_000  # tokens that are remembered, for requests that are repeated


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What a remote worker says of itself when it enters."""

    name: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]  # names or patterns (`shop.*`)
    lease_seconds: float
    host: str = ""
    pid: int = 0


class Held(msgspec.Struct):
    """A delivery that the client holds, or may hold."""

    delivery: Delivery
    lease: Lease
    at: float  # monotonic; when it was handed over, as far as this process knows

    def is_overdue(self, now: float) -> bool:
        """Return whether its hard time limit has passed."""
        limit = self.delivery.message.time_limit
        return limit is not None and now - self.at > limit


class Received(msgspec.Struct, frozen=True):
    """The answer to a request for deliveries."""

    deliveries: Mapping[str, Delivery] = {}  # by token
    lost: Sequence[str] = ()  # of the tokens that the client said it holds, those that it does not


class Renewed(msgspec.Struct, frozen=True):
    """The answer to a heartbeat."""

    lost: Sequence[str] = ()
    terminate: Sequence[str] = ()  # tokens of tasks that are to be ended
    overdue: Sequence[str] = ()  # tokens of tasks whose hard time limit has passed
    stop: bool = False  # the worker was told to stop


class RemoteWorker:
    """One remote worker, as far as this process serves it."""

    def __init__(self, app: Celeriac, registration: Registration, options: WorkerOptions, settler: Settler,
                 receiver: RemoteReceiver, terminated: Callable[[str], bool]) -> None:  # fmt: skip
        self.registration = registration
        self.options = options
        self.held: dict[str, Held] = {}  # by token, as the client knows it
        self.done = 0  # deliveries that were settled
        self.stop_asked = False
        self.heard_at = time.monotonic()  # when the client last showed that it lives
        self._app = app
        self._settler = settler
        self._receiver = receiver
        self._terminated = terminated  # whether a task was told to end, by its id
        self._lease: Lease | None = None  # that of this process
        self._opening = asyncio.Lock()
        self._receiving: asyncio.Task[Received] | None = None
        self._turn = 0
        self._unused_at = 0.0  # monotonic; when the lease of this process was renewed
        self._settled: dict[str, None] = {}  # tokens, the oldest first

    @property
    def is_receiving(self) -> bool:
        """Whether a request for deliveries is being answered."""
        return self._receiving is not None and not self._receiving.done()

    # --- Enter ----------------------------------------------------------------------------------------

    async def enter(self) -> Lease:
        """Return the lease of this process; open it if there is none."""
        async with self._opening:
            if self._lease is None:
                given = self.registration
                info = WorkerInfo(name=given.name, host=given.host, pid=given.pid, started_at=self._app.clock.now(),
                                  queues=given.queues, version=__about__.VERSION)  # fmt: skip
                self._lease = await self._app.broker.lease(info, given.lease_seconds, self.options.max_deliveries)
                self._unused_at = time.monotonic()
            return self._lease

    def _lost(self, lease: Lease) -> None:
        """Forget a lease that has expired, with what was held under it."""
        log.warning("The lease of the remote worker %s has expired; others take over what it held", self.options.name)
        self.held = {token: held for token, held in self.held.items() if held.lease.name != lease.name}
        if self._lease is not None and self._lease.name == lease.name:
            self._lease.leave()
            self._lease = None

    # --- Receive --------------------------------------------------------------------------------------

    async def receive(self, limit: int, wait: float, holds: Sequence[str]) -> Received:
        """Return up to `limit` deliveries, as soon as there is one; none after `wait` seconds.

        A client has one such request at a time. A second one ends the first: its client no longer waits for that.
        Cancelled, it leaves nothing behind.
        """
        earlier = self._receiving
        mine = self._receiving = asyncio.ensure_future(self._receive(earlier, limit, wait, holds))
        try:
            return await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self.return_soon([*mine.result().deliveries])  # both happened at once
            if self._receiving is not mine and mine.cancelled():
                return Received()
            raise

    async def _receive(self, earlier: asyncio.Task[Received] | None, limit: int, wait: float,
                       holds: Sequence[str]) -> Received:  # fmt: skip
        deadline = time.monotonic() + wait
        if not holds:
            self.heard_at = time.monotonic()  # of one that holds something, only a heartbeat counts
        if earlier is not None:
            earlier.cancel()
            await asyncio.wait([earlier])
        known = await self.find(holds)
        await self.give_back([token for token in self.held if token not in known])
        lost = [token for token in holds if token not in known]
        limit = min(limit, MOST_HELD - len(self.held))
        while not lost:
            lease = await self.enter()
            left = max(0.0, deadline - time.monotonic())
            try:
                await self._renew_unused(lease)
                found = await self._next(lease, limit, min(left, self.registration.lease_seconds / 3))
            except LeaseLost:
                before = set(self.held)
                self._lost(lease)
                lost = [token for token in before if token not in self.held]
                if left <= 0:
                    break
                continue
            started = await self._admit(lease, found, limit)
            if started or left <= 0 or limit <= 0:
                self.heard_at = time.monotonic()
                return Received(started)
        return Received(lost=lost)

    async def _renew_unused(self, lease: Lease) -> None:
        """Renew a lease under which nothing is held, from time to time: so a client that only waits need not."""
        if time.monotonic() - self._unused_at < self.registration.lease_seconds / 4:
            return
        if not any(held.lease.name == lease.name for held in self.held.values()):
            await lease.renew()
            self._unused_at = time.monotonic()

    async def _next(self, lease: Lease, limit: int, wait: float) -> list[Delivery]:
        """Receive from both lanes, which are the same to this worker: first what is there, then wait."""
        queues = list(self.registration.queues)
        if limit <= 0:
            await asyncio.sleep(wait)
            return []
        self._turn += 1
        found: list[Delivery] = []
        try:
            for lane in (PLAIN, COROUTINE) if self._turn % 2 else (COROUTINE, PLAIN):
                if limit > len(found):
                    found += await lease.receive(queues, {lane: limit - len(found)}, 0.0)
            if not found and wait > 0:
                found = await lease.receive(queues, {PLAIN: limit, COROUTINE: limit}, wait)
        finally:
            now = time.monotonic()
            # Whatever happens next, a request of the client that does not name them returns them.
            self.held |= {token_of(one): Held(one, lease, now) for one in found}
        return found

    async def _admit(self, lease: Lease, found: Sequence[Delivery], limit: int) -> dict[str, Delivery]:
        """Settle what must not run, return what is too much, and return the rest by token."""
        if not found:
            return {}
        try:
            start, endings = await self._receiver.admit(found)
            for delivery in start[limit:]:
                endings.append(Ending(delivery=delivery, given_back=True))
            if endings:
                await self._settler.settle(lease, endings)
                self._forget(token_of(ending.delivery) for ending in endings)
        except BaseException:
            self.return_soon([token_of(delivery) for delivery in found])
            raise
        return {token_of(delivery): delivery for delivery in start[:limit]}

    async def give_back(self, tokens: Sequence[str]) -> None:
        """Return deliveries that the client has never got; they do not count. Raises as `Settler.settle` does."""
        await self._settle([Ending(delivery=self.held[token].delivery, given_back=True) for token in tokens
                            if token in self.held])  # fmt: skip

    def return_soon(self, tokens: Sequence[str]) -> None:
        """Return deliveries that the client does not get, at once. If that fails, its next request returns them."""
        returning = asyncio.ensure_future(self.give_back(tokens))
        _background.add(returning)
        returning.add_done_callback(_returned)

    # --- Settle ---------------------------------------------------------------------------------------

    async def find(self, tokens: Sequence[str]) -> dict[str, Held]:
        """Return, by token, what the client holds; adopt the leases of tokens that other processes gave it."""
        unknown: dict[str, tuple[Lease, list[tuple[str, Claim]]]] = {}
        for token in tokens:
            claim = claim_of(token) if token not in self.held and token not in self._settled else None
            if claim is None or claim.queue not in self.registration.queues:
                continue
            lease = self._app.broker.adopt(claim.token, self.registration.lease_seconds)
            if lease is not None:
                unknown.setdefault(lease.name, (lease, []))[1].append((token, claim))
        for lease, claims in unknown.values():
            if self._lease is not None and lease.name == self._lease.name:
                continue  # what is held under this one, this process knows
            found = await lease.held([claim for _, claim in claims])
            for token, claim in claims:
                if claim.token in found:
                    # Its follow-ups may have been published before, by a process that was killed.
                    delivery = msgspec.structs.replace(found[claim.token], again=True)
                    self.held[token] = Held(delivery, lease, time.monotonic())
        return {token: self.held[token] for token in tokens if token in self.held}

    async def settle(self, endings: Sequence[Ending]) -> dict[str, bool]:
        """Settle; return by token what was accepted. False: it was stale, and nothing was written.

        Raises `BrokerError` or `BackendError` while a server is away. It may be repeated then, and when the answer was
        lost: what was settled before is accepted.
        """
        accepted = await self._settle(endings)
        for token, good in accepted.items():
            if good:
                self._settled[token] = None
                self.done += 1
        for token in list(islice(self._settled, max(0, len(self._settled) - MOST_SETTLED))):
            del self._settled[token]
        return accepted

    async def _settle(self, endings: Sequence[Ending]) -> dict[str, bool]:
        by_lease: dict[str, list[Ending]] = {}
        for ending in endings:
            held = self.held.get(token_of(ending.delivery))
            if held is not None:
                by_lease.setdefault(held.lease.name, []).append(ending)
        accepted: dict[str, bool] = {}
        for some in by_lease.values():
            tokens = [token_of(ending.delivery) for ending in some]
            leases = [self.held[token].lease for token in tokens if token in self.held]
            if not leases:
                continue  # it was lost meanwhile
            accepted |= zip(tokens, await self._settler.settle(leases[0], some), strict=True)
            self._forget(tokens)
        return accepted

    def was_settled(self, token: str) -> bool:
        """Return whether this process has settled it for the client, some time ago."""
        return token in self._settled

    def _forget(self, tokens: Iterable[str]) -> None:
        for token in tokens:
            self.held.pop(token, None)

    # --- Renew, end -----------------------------------------------------------------------------------

    async def renew(self, holds: Sequence[str]) -> Renewed:
        """Renew the leases of all that the client holds."""
        self.heard_at = time.monotonic()
        await self.find(holds)
        leases = {held.lease.name: held.lease for held in self.held.values()}
        if self._lease is not None:
            leases[self._lease.name] = self._lease
        for lease in leases.values():
            try:
                await lease.renew()
                if lease is self._lease:
                    self._unused_at = time.monotonic()
            except LeaseLost:
                self._lost(lease)
        mine = {token: self.held[token] for token in holds if token in self.held}
        terminate = [token for token, held in mine.items() if self._terminated(held.delivery.message.id)]
        overdue = [token for token, held in mine.items() if held.is_overdue(self.heard_at)]
        lost = [token for token in holds if token not in mine and token not in self._settled]
        return Renewed(lost, terminate, overdue, self.stop_asked)

    async def end(self) -> None:
        """End: what the client still holds goes back; what must not run twice (`acks_late=False`) has failed."""
        self._cancel()
        await self.settle([give_back(held.delivery) for held in self.held.values()])
        if self._lease is not None:
            lease, self._lease = self._lease, None
            await lease.end()

    async def expire(self) -> None:
        """End the lease of a client that is dead. What it held counts as delivered.

        Called where the broker cannot do this by the clock (without `Ability.CLOCK_LEASES`).
        """
        self._cancel()
        await self.settle([Ending(delivery=held.delivery, lost="lost with its worker") for held in self.held.values()])
        if self._lease is not None:
            lease, self._lease = self._lease, None
            await lease.end()

    async def close(self) -> None:
        """Stop serving it, because this process stops: what it holds it still holds, and another process goes on."""
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.wait([self._receiving])
        lease = self._lease
        if not self._app.broker.can(Ability.CLOCK_LEASES):
            await self.end()  # nobody can go on
        elif lease is not None and not any(held.lease.name == lease.name for held in self.held.values()):
            self._lease = None
            await lease.end()
        self.leave()

    def leave(self) -> None:
        """Forget it: its leases stand until they expire."""
        self._cancel()
        self.held.clear()
        if self._lease is not None:
            self._lease.leave()
            self._lease = None

    def _cancel(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()


_background: set[asyncio.Task[Any]] = set()  # the loop keeps no task that nobody else knows


def _returned(task: asyncio.Task[None]) -> None:
    _background.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        if not isinstance(error, BrokerError | BackendError):
            log.error("Deliveries could not be returned to their queues", exc_info=error)
            return
        log.warning("Deliveries that their worker did not get could not be returned to their queues yet: %s", error)
