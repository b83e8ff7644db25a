"""Requests that wait: for a message, an outcome, a broadcast. The hub holds them, and answers when there is something.

After the writes of a turn, `serve` looks only for those that what was written may concern: queues and lanes, ids,
channels. So a message that is published goes to a waiting worker in the same transaction. Those who wait longest are
served first. What other processes write to the file is noticed within a second (`look_again`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from itertools import count
from typing import Any, Final, TypeAlias

from celeriac.brokers.sqlite.lines import learn
from celeriac.brokers.sqlite.rows import line_up, wake_due
from celeriac.drivers.sqlite.opening import Connection
from celeriac.drivers.zmq.error_translation import kind_of
from celeriac.errors import CeleriacError
from celeriac.hub.carrier import Carrier
from celeriac.hub.database import HubDatabase
from celeriac.hub.lookout import Lookout
from celeriac.hub.parts.backend import Backend
from celeriac.hub.parts.broker import Broker
from celeriac.hub.parts.leases import Leases, given_of
from celeriac.hub.sessions import Job
from celeriac.hub.turn import Turn
from celeriac.model.clock import Clock

__all__ = ["POLLS", "Poll", "Polls"]

Line = tuple[str, str]

POLLS: Final = frozenset({"leases.receive", "leases.overdue", "backend.fetch", "backend.pending", "broker.heard"})
"""The verbs that wait."""

FEW: Final = 32  # outcomes; who waits for more …
PAUSE_PER_ID: Final = 1e-5  # … is answered so many seconds, for each, after the first of them was stored …
LONGEST_PAUSE: Final = 0.1  # … at most
LONGEST_WAIT: Final = 3600.0
FIRST: Final = "SELECT 1 FROM ready WHERE line = ? AND NOT EXISTS (SELECT 1 FROM pauses WHERE queue = ?) LIMIT 1"
SOME_FRESH: Final = "SELECT 1 FROM fresh LIMIT 1"
SOONEST: Final = "SELECT min(due_at) FROM scheduled"


Waiters: TypeAlias = "dict[Any, dict[Poll, None]]"
"""By what they wait for, in the order in which they came."""


class Poll:
    """A job that waits."""

    def __init__(self, job: Job, deadline: float, among: Waiters, keys: Iterable[Any]) -> None:
        self.job = job
        self.deadline = deadline  # monotonic
        self.among = among  # those who wait for the same kind of thing
        self.keys = tuple(keys)  # what it waits for
        self.is_over = False
        self.pausing = False


class Polls:
    """All requests that wait."""

    def __init__(self, turn: Turn, database: HubDatabase, carrier: Carrier, clock: Clock, broker: Broker,
                 leases: Leases, backend: Backend) -> None:  # fmt: skip
        self._turn = turn
        self._database = database
        self._carrier = carrier
        self._clock = clock
        self._broker = broker
        self._leases = leases
        self._backend = backend
        self._by_line: Waiters = {}
        self._by_id: Waiters = {}
        self._by_channel: Waiters = {}
        self._overdue = Lookout(lambda job: leases.is_overdue(*job.arguments[:2]))
        self._pending = Lookout(lambda job: backend.has_pending())
        self._lookouts = {"leases.overdue": self._overdue, "backend.pending": self._pending}
        self._voided: list[Job] = []
        self._polls: dict[Job, Poll] = {}
        self._timers: list[tuple[float, int, Poll]] = []
        self._order = count()
        self._due_at = 0.0  # no scheduled message is due before, by the clock; it has to be looked for then

    def __len__(self) -> int:
        return len(self._polls) + len(self._overdue) + len(self._pending)

    @property
    def waits_for_messages(self) -> bool:
        """Whether anybody waits for messages."""
        return bool(self._by_line)

    # --- Begin and end --------------------------------------------------------------------------------

    def begin(self, job: Job) -> None:
        """Answer a request that may wait, or let it wait."""
        if job.verb == "leases.receive":
            self._receive(job)
        elif (lookout := self._lookouts.get(job.verb)) is not None:
            lookout.begin(job, self._clock.monotonic() + min(job.arguments[-1], LONGEST_WAIT))
        elif job.verb == "backend.fetch":
            ids, wait = job.arguments
            if found := self._backend.look(ids, wait > 0):
                job.answer(found)
            elif wait > 0 and ids:
                self._wait(job, wait, self._by_id, ids)
            else:
                job.answer({})
        else:
            channel, seen, wait = job.arguments
            last, payloads = self._broker.heard_now(channel, seen)
            if payloads or wait <= 0:
                job.answer((last, payloads))
            else:
                self._wait(job, wait, self._by_channel, [channel])

    def _receive(self, job: Job) -> None:
        number, receipt, void, queues, slots, wait = job.arguments
        lease = self._leases.of(number)
        if void:
            self.void(number, void)
        if job.repeated and (given := lease.taken(receipt)):
            job.answer(given)
            return
        free = {lane: slot for lane, slot in slots.items() if slot > 0}
        if queues and free and lease.may_take(queues, free):
            self._take(job)
        if not job.is_answered:
            if wait > 0 and queues and free:
                self._wait(job, wait, self._by_line, [(queue, lane) for queue in queues for lane in free])
            else:
                job.answer([])

    def _take(self, job: Job) -> None:
        number, receipt, _, queues, slots, _ = job.arguments
        try:
            taken = self._leases.of(number).take(receipt, queues, slots, self._turn.is_lined_up)
        except CeleriacError as error:
            job.answer(str(error), kind_of(error))
            return
        self._turn.is_lined_up = True
        if taken:
            job.answer([given_of(one) for one in taken])

    def void(self, number: int, receipts: list[int]) -> None:
        """Let requests for messages wait no more, and return what they took."""
        for job in [job for job in self._polls if job.verb == "leases.receive" and job.arguments[0] == number]:
            if job.arguments[1] in receipts:
                job.answer([])
                self._voided.append(job)
                receipts = [one for one in receipts if one != job.arguments[1]]
        self._leases.void(number, receipts)

    def _wait(self, job: Job, wait: float, among: Waiters, keys: Iterable[Any]) -> None:
        poll = self._polls[job] = Poll(job, self._clock.monotonic() + min(wait, LONGEST_WAIT), among, keys)
        for key in poll.keys:
            among.setdefault(key, {})[poll] = None
        heapq.heappush(self._timers, (poll.deadline, next(self._order), poll))

    def _end(self, poll: Poll) -> None:
        poll.is_over = True
        del self._polls[poll.job]
        for key in poll.keys:
            waiters = poll.among.get(key)
            if waiters is not None:
                waiters.pop(poll, None)
                if not waiters:
                    del poll.among[key]

    def drop(self, job: Job) -> None:
        """Forget a request whose client has given it up."""
        poll = self._polls.get(job)
        if poll is not None:
            self._end(poll)
        elif (lookout := self._lookouts.get(job.verb)) is not None:
            lookout.drop(job)

    def end_all(self, answered: Iterable[Job]) -> None:
        """Forget those that were answered."""
        for job in answered:
            self.drop(job)

    def give_up(self) -> list[Job]:
        """Answer all with nothing: the file was replaced, and their leases are gone. They ask again."""
        given_up = [*self._polls, *(job for lookout in self._lookouts.values() for job in lookout.jobs())]
        for job in given_up:
            job.answer(self._nothing(job))
        self.end_all(given_up)
        self.look_for_due()
        return given_up

    def _nothing(self, job: Job) -> Any:
        if job.verb == "broker.heard":
            return job.arguments[1], []
        if job.verb in self._lookouts:
            return False
        return [] if job.verb == "leases.receive" else {}

    # --- Serving --------------------------------------------------------------------------------------

    def serve(self) -> list[Job]:
        """Return the waiting requests that can be answered after what was written in this turn."""
        answered, self._voided = self._voided, []
        now = self._clock.monotonic()
        if self._by_line:
            answered += self._serve_lines()
        if self._by_id:
            for id in self._carrier.ended:
                for poll in list(self._by_id.get(id, ())):
                    self._look(poll, now, answered)
        for channel in self._turn.channels:
            for poll in list(self._by_channel.get(channel, ())):
                if not poll.job.is_answered:
                    self._hear(poll.job, answered)
        self._carrier.written.clear()
        self._carrier.ended.clear()
        while self._timers and self._timers[0][0] <= now:
            self._ring(heapq.heappop(self._timers)[2], now, answered)
        for lookout in self._lookouts.values():
            answered += lookout.look(now)
        return answered

    def _serve_lines(self) -> list[Job]:
        now = self._clock.now()
        self._due_at, self._carrier.due_at = min(self._due_at, self._carrier.due_at), float("inf")
        if now >= self._due_at:
            self._database.write(lambda connection: wake_due(connection, now), quiet=True)
            self._turn.is_lined_up = True
            self._turn.look_everywhere()
        if self._turn.is_open:
            self._line_up()
        answered: list[Job] = []
        for line in list(self._by_line if self._turn.is_open else self._carrier.written):
            for poll in list(self._by_line.get(line, ())):
                if poll.job.is_answered:
                    continue
                if not self._has_messages(line):
                    break
                self._take(poll.job)
                if poll.job.is_answered:
                    answered.append(poll.job)
        if self._turn.is_open:
            self._due_at = self._soonest()
        return answered

    def _line_up(self) -> None:
        """Learn of the lines, and move to them the messages, of embedded producers with this file."""

        def look(connection: Connection) -> bool:
            learn(connection)
            return connection.execute(SOME_FRESH).fetchone() is not None

        if self._database.read(look):
            self._database.write(line_up, quiet=True)

    def _has_messages(self, line: Line) -> bool:
        """Return whether a line has messages, and its queue is not paused: then nobody of those who wait looks."""
        number = self._database.connection().lines.get(line)
        if number is None:  # it was made in this turn
            return line in self._carrier.written
        read = self._database.read
        return read(lambda connection: connection.execute(FIRST, (number, line[0])).fetchone()) is not None

    def _soonest(self) -> float:
        (soonest,) = self._database.read(lambda connection: connection.execute(SOONEST).fetchone())
        return soonest if isinstance(soonest, int | float) else float("inf")

    def _look(self, poll: Poll, now: float, answered: list[Job]) -> None:
        """Answer a request for outcomes, or let it wait for more of them."""
        if poll.job.is_answered or poll.pausing:
            return
        ids = poll.job.arguments[0]
        if len(ids) > FEW:
            poll.pausing = True
            ready_at = now + min(LONGEST_PAUSE, len(ids) * PAUSE_PER_ID)
            heapq.heappush(self._timers, (min(ready_at, poll.deadline), next(self._order), poll))
        elif found := self._backend.look(ids, True):
            poll.job.answer(found)
            answered.append(poll.job)

    def _hear(self, job: Job, answered: list[Job]) -> None:
        channel, seen, _ = job.arguments
        last, payloads = self._broker.heard_now(channel, seen)
        if payloads:
            job.answer((last, payloads))
            answered.append(job)

    def _ring(self, poll: Poll, now: float, answered: list[Job]) -> None:
        """Deal with a poll whose time has come."""
        job = poll.job
        if poll.is_over or job.is_answered:
            return
        if job.verb == "backend.fetch":
            poll.pausing = False
            found = self._backend.look(job.arguments[0], True)
            if not found and now < poll.deadline:
                return
            job.answer(found)
        else:
            job.answer(self._nothing(job))
        answered.append(job)

    # --- Time -----------------------------------------------------------------------------------------

    def next_at(self) -> float:
        """Return when the next poll's time comes, or a scheduled message is due: monotonic, about."""
        found = min(self._overdue.next_at(), self._pending.next_at())
        if self._timers:
            found = min(found, self._timers[0][0])
        if self._by_line and self._due_at < float("inf"):
            found = min(found, self._clock.monotonic() + self._due_at - self._clock.now())
        return found

    def look_for_due(self) -> None:
        """Find out at the next `serve` when a message is due: what was read in this turn is not true."""
        self._due_at = 0.0

    def look_again(self) -> None:
        """Have all look at the next `serve`: another process has written to the file."""
        self._turn.look_everywhere()
        self._carrier.ended.update(self._by_id)
        self._turn.channels.update(self._by_channel)
