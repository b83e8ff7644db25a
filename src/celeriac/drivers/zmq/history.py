"""The history on the hub. Values are sealed, opened and merged here; the hub keeps rows of bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from celeriac.drivers.zmq.claims import HubClaims
from celeriac.drivers.zmq.server import Server
from celeriac.drivers.zmq.verbs import EventRow, Recorded, SignatureRow
from celeriac.model.filters import Filter
from celeriac.model.history import Batch, Event, FailureSignature, Key, Status, samples_only
from celeriac.model.message import new_id
from celeriac.ports.claims import ClaimStore
from celeriac.ports.history import History, Limits, Position
from celeriac.ports.history_sums import Change, Row, WorkerState

__all__ = ["HubHistory"]


class HubHistory(History):
    """The history in the file of a hub."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.codec = server.codec

    async def record(self, batch: Batch, now: float) -> None:
        names = [one.signature for one in batch.signatures]
        known = {one.signature: one for one in await self.known_signatures(names)} if names else {}
        merged = [known[one.signature].merged(one) if one.signature in known else one for one in batch.signatures]
        recorded = Recorded(
            batch.lease, batch.complete, [(key, self.seal_sums(key, sums)) for key, sums in batch.sums.items()],
            [(one.done_at, one.id, one.attempt, samples_only(one), one.task, one.signature, self.seal(one))
             for one in batch.attempts],
            [self._event_row(event, f"{batch.lease}:{event.at!r}:{event.kind}:{event.id}") for event in batch.events],
            [(one.signature, one.last, self.seal(one)) for one in merged],
        )  # fmt: skip
        await self.server.ado("history.record", recorded, now)

    def _event_row(self, event: Event, name: str) -> EventRow:
        return name, event.at, event.kind, event.id, self.seal(event)

    def claims(self) -> ClaimStore:
        return HubClaims(self.server)

    async def prune(self, limits: Limits, now: float) -> int:
        count: int = await self.server.ado("history.prune", limits, now)
        return count

    # --- Rows of sums ---------------------------------------------------------------------------------

    async def rows(self, step: int, since: int, until: int, limit: int | None = None) -> list[Row]:
        found: list[Row] = await self.server.ado("history.rows", step, since, until, limit)
        return found

    async def unfolded(self) -> list[Row]:
        found: list[Row] = await self.server.ado("history.unfolded")
        return found

    async def get(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        return {row.key: row.value for row in await self.server.ado("history.get", list(keys))}

    async def swap(self, changes: Sequence[Change], folded: Mapping[str, int]) -> bool:
        done: bool = await self.server.ado("history.swap", list(changes), dict(folded))
        return done

    async def workers(self) -> dict[str, WorkerState]:
        found: dict[str, WorkerState] = await self.server.ado("history.workers")
        return found

    # --- Front ends -----------------------------------------------------------------------------------

    async def attempts(self, filter: Filter, before: Position | None, limit: int) -> list[tuple[Position, bytes]]:
        plain = Filter(tasks=filter.tasks, states=filter.states, ids=filter.ids, signatures=filter.signatures,
                       since=filter.since, until=filter.until)  # fmt: skip
        found: list[tuple[Position, bytes]] = await self.server.ado("history.attempts", plain, before, limit)
        return found

    async def count_attempts(self) -> int:
        count: int = await self.server.ado("history.count_attempts")
        return count

    async def attempts_of_task(self, id: str) -> list[bytes]:
        found: list[bytes] = await self.server.ado("history.attempts_of_task", id)
        return found

    async def known_signatures(self, signatures: Sequence[str] | None = None) -> list[FailureSignature]:
        names = None if signatures is None else list(signatures)
        return self._signatures(await self.server.ado("history.signature_rows", names, 0.0))

    async def latest_signatures(self, since: float) -> list[FailureSignature]:
        return self._signatures(await self.server.ado("history.signature_rows", None, since))

    def _signatures(self, rows: Sequence[SignatureRow]) -> list[FailureSignature]:
        found = []
        for value, status, marked_at, marked_by in rows:
            one = self.signature_of(value)
            if one is not None:
                marks = {"status": status, "marked_at": marked_at, "marked_by": marked_by}
                found.append(replace(one, **marks))
        return sorted(found, key=lambda one: one.last, reverse=True)

    async def mark(self, signature: str, status: Status, by: str, now: float) -> bool:
        done: bool = await self.server.ado("history.mark", signature, status, by, now)
        return done

    async def audit(self, event: Event) -> None:
        await self.server.ado("history.audit", self._event_row(event, new_id()))

    async def events(self, kinds: Sequence[str] = (), since: float = 0.0, limit: int = 100,
                     id: str | None = None) -> list[Event]:  # fmt: skip
        return list(self.events_of(await self.server.ado("history.event_rows", list(kinds), since, limit, id)))
