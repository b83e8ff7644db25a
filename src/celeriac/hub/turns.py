"""Turns: all that has come from all clients at one time is carried out in one transaction (group commit).

A request that fails is undone alone, and told why; the others are committed. Nobody is answered before the commit.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from celeriac.drivers.sqlite.error_translation import translated
from celeriac.drivers.zmq.error_translation import kind_of
from celeriac.drivers.zmq.verbs import VERBS
from celeriac.errors import BrokerError, CeleriacError
from celeriac.hub.carrier import Carrier
from celeriac.hub.database import HubDatabase
from celeriac.hub.parts.backend import Backend, Claims
from celeriac.hub.parts.broker import Broker
from celeriac.hub.parts.delays import Delays
from celeriac.hub.parts.history import History
from celeriac.hub.parts.leases import Leases
from celeriac.hub.parts.operations import Operations
from celeriac.hub.parts.schedules import Schedules
from celeriac.hub.polls import POLLS, Polls
from celeriac.hub.sessions import Job
from celeriac.hub.turn import Turn
from celeriac.model.clock import Clock
from celeriac.model.gate import UNDECODABLE

__all__ = ["Turns"]

log = logging.getLogger("celeriac.hub")

TRIES: Final = 3  # of a turn whose file is replaced meanwhile
LOOK_SECONDS: Final = 1.0  # how often it is found out whether other processes have written to the file


class Turns:
    """Carries out requests on a file."""

    def __init__(self, path: str, synchronous: str, timeout: float, clock: Clock,
                 others: dict[str, Callable[..., Any]]) -> None:  # fmt: skip
        self._clock = clock
        self._turn = turn = Turn()
        carrier = Carrier()
        self.database = database = HubDatabase(path, synchronous, timeout, carrier)
        self.broker = broker = Broker(turn, database, clock)
        leases, backend = Leases(turn, database, clock), Backend(turn, database, clock)
        self.polls = polls = Polls(turn, database, carrier, clock, broker, leases, backend)
        parts = {
            "broker": broker, "leases": leases, "backend": backend, "operations": Operations(turn, database, clock),
            "schedules": Schedules(turn, database, clock), "claims": Claims(turn, database),
            "delays": Delays(database, clock), "history": History(database),
        }  # fmt: skip
        self._methods: dict[str, Callable[..., Any]] = {**others, "leases.void": polls.void}
        for name in VERBS.keys() - POLLS - self._methods.keys():
            part, _, method = name.partition(".")
            self._methods[name] = getattr(parts[part], method)
        self._moves = 0  # how often the file had been replaced at the last turn
        self._version = 0  # of the file, as SQLite counts the commits of other processes
        self._looked_at = 0.0  # monotonic

    def run(self, coming: Iterable[Job], is_one: bool = False) -> list[Job]:
        """Carry out what comes, and return all that is answered: of these, and of those that were waiting.

        `is_one`: there is only one.
        """
        self._turn.is_alone = is_one and not self.polls.waits_for_messages
        coming = iter(coming)  # each is taken once, also if the turn is done again
        jobs: list[Job] = []
        given_up: list[Job] = []
        for _ in range(TRIES):
            self._turn.clear()
            served: list[Job] = []
            try:
                with translated(self.database.path):
                    self._look_at_others()
                    if self._moves != self.database.moves:
                        self._moves = self.database.moves
                        given_up += self.polls.give_up()
                    for job in jobs:
                        self._carry_out(job)
                    for job in coming:
                        jobs.append(job)
                        self._carry_out(job)
                    served = self.polls.serve()
                    if self.database.commit():
                        break
            except CeleriacError as error:
                log.error("A turn with %d requests failed, and none of them was carried out: %s", len(jobs), error)
                self.database.roll_back()
                self.polls.look_for_due()
                for job in (*jobs, *served):
                    job.answer(str(error), kind_of(error))
                break
        answered = [job for job in jobs if job.is_answered]
        if given_up or served:
            own = set(jobs)
            answered += [job for job in (*given_up, *served) if job not in own]
        self.polls.end_all(answered)
        return answered

    def _carry_out(self, job: Job) -> None:
        self._turn.repeated, self._turn.client = job.repeated, job.client
        job.is_answered = False
        verb = VERBS.get(job.verb)
        try:
            if verb is None:
                raise BrokerError(f"it knows no `{job.verb}`: upgrade the hub.")
            job.arguments = verb.arguments(job.request.arguments)
            if job.verb in POLLS:
                self.polls.begin(job)
            else:
                job.answer(self._methods[job.verb](*job.arguments))
        except CeleriacError as error:
            job.answer(str(error), kind_of(error))
        except (*UNDECODABLE, KeyError) as error:
            job.answer(f"it cannot carry out `{job.verb}`: {error}", BrokerError.__name__)
        except sqlite3.Error as error:
            job.answer(f"it cannot carry out `{job.verb}`: SQLite: {error}", BrokerError.__name__)
        except Exception as error:  # a fault of the hub itself is told, and does not take it from all other clients
            log.exception("A request for `%s` by %s has failed.", job.verb, job.client or "a client without a name")
            job.answer(f"it has failed at `{job.verb}` ({type(error).__name__}): see its log.", BrokerError.__name__)

    def _look_at_others(self) -> None:
        """Notice what other processes have written to the file, once a second, if anybody waits."""
        now = time.monotonic()
        if now < self._looked_at + LOOK_SECONDS or not self.polls:
            return
        self._looked_at = now
        (version,) = self.database.read(lambda connection: connection.execute("PRAGMA data_version").fetchone())
        if version != self._version:
            self._version = version
            self.polls.look_again()

    def close(self) -> None:
        """Close the file."""
        self.database.close()
