"""Outcomes, workflows and claims."""

from __future__ import annotations

from typing import Any, Final, cast

from celeriac.backends.sqlite import SQLiteBackend
from celeriac.drivers.sqlite.claims import SQLiteClaimStore
from celeriac.drivers.sqlite.workflows import peek_pending
from celeriac.drivers.zmq.frames import FRAME_BYTES
from celeriac.drivers.zmq.parcels import OutcomeParcel, parcel_of_outcome
from celeriac.drivers.zmq.verbs import Advanced
from celeriac.hub.database import HubDatabase, finish
from celeriac.hub.turn import Turn
from celeriac.model.clock import Clock
from celeriac.ports.workflows import NodeEnd, PendingNode, Plan

__all__ = ["Backend", "Claims"]

FEW: Final = 8  # outcomes; more are looked up together if these are small


class Backend:
    """The verbs `backend.*`, but for waiting (`polls.py`)."""

    def __init__(self, turn: Turn, database: HubDatabase, clock: Clock) -> None:
        self._turn = turn
        self._database = database
        self._clock = clock
        self._backend = SQLiteBackend(database, clock)

    def store(self, values: list[bytes]) -> list[bool]:
        """Store outcomes. One that is repeated after a restart is new if it is the one that is there."""
        parcels = [parcel_of_outcome(value) for value in values]
        return self._as_first(parcels, finish(self._backend.store(cast(Any, parcels))))

    def conclude(self, ends: list[tuple[bytes, bool]]) -> list[bool]:
        """Store the ends of nodes of workflows."""
        parcels = [parcel_of_outcome(value) for value, _ in ends]
        nodes = [NodeEnd(cast(Any, parcel), pending) for parcel, (_, pending) in zip(parcels, ends, strict=True)]
        return self._as_first(parcels, finish(self._backend.conclude(nodes)))

    def _as_first(self, parcels: list[OutcomeParcel], done: list[bool]) -> list[bool]:
        if self._turn.repeated and not all(done):
            there = self._look([parcel.id for parcel in parcels], final=True)
            return [new or there.get(one.id) == one.data for one, new in zip(parcels, done, strict=True)]
        return done

    def look(self, ids: list[str], final: bool) -> dict[str, bytes]:
        """Return the known outcomes of tasks: of many large ones a part, of at least `FRAME_BYTES`."""
        found: dict[str, bytes] = {}
        size = start = 0
        step = FEW
        while start < len(ids) and size < FRAME_BYTES:
            found |= self._look(ids[start : start + step], final)
            size = sum(map(len, found.values()))
            start, step = start + step, 4 * step
        return found

    def _look(self, ids: list[str], final: bool) -> dict[str, bytes]:
        found = self._backend.look(ids, final)
        return {id: cast(OutcomeParcel, outcome).data for id, outcome in found.items()}

    def forget(self, ids: list[str]) -> None:
        """Delete outcomes."""
        self._backend.forget(ids)

    def recent(self, limit: int, offset: int, state: str | None) -> list[tuple[str, bytes]]:
        """Return the outcomes stored last."""
        found = finish(self._backend.recent(limit, offset, state))
        return [(outcome.id, cast(OutcomeParcel, outcome).data) for outcome in found]

    def plant(self, plan: Plan, again: bool) -> None:
        """Store a workflow. `again`: if there is one of its id, that stays as it is."""
        self._backend.plant(plan, again)

    def trees(self, ids: list[str]) -> dict[str, bytes]:
        """Return the trees of workflows."""
        return self._backend.trees(ids)

    def unfinished(self, limit: int) -> list[str] | None:
        """Return the ids of workflows that have not ended."""
        return finish(self._backend.unfinished(limit))

    def uproot(self, ids: list[str]) -> None:
        """Delete workflows."""
        self._backend.uproot(ids)

    def claim_pending(self, limit: int, seconds: float) -> list[tuple[PendingNode, bool]]:
        """Claim pending nodes."""
        return list(finish(self._backend.claim_pending(limit, seconds)).items())

    def has_pending(self) -> bool:
        """Return whether there is a pending node to claim."""
        now = self._clock.now()
        return bool(self._database.read(lambda connection: peek_pending(connection, 1, now)))

    def advance(self, items: list[Advanced]) -> list[bool]:
        """Advance workflows whose messages are published elsewhere."""
        for item in items:
            item.outcomes = [parcel_of_outcome(data) for data in item.outcomes]
        return finish(self._backend.advance(cast(Any, items)))


class Claims:
    """The verb `claims.claim`."""

    def __init__(self, turn: Turn, database: HubDatabase) -> None:
        self._turn = turn
        self._claims = SQLiteClaimStore(database)

    def claim(self, key: str, value: bytes, seconds: float, now: float) -> bytes | None:
        """Take a key. One who repeats that after a restart, and holds it, has taken it."""
        held = finish(self._claims.claim(key, value, seconds, now))
        return None if self._turn.repeated and seconds > 0 and held == value else held
