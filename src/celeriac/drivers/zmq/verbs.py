"""The verbs of the hub: what each takes and returns. Both sides read this table; `hub/` carries the verbs out.

A verb `part.method` is a method of one of the parts of the hub (`broker`, `leases`, `operations`, `backend`,
`schedules`, `claims`, `delays`, `history`), which are the SQLite adapters behind the ports. Messages and outcomes
are bytes here (`parcels.py`), and so are all values that an app's codec seals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import msgspec

from celeriac.model.filters import Filter
from celeriac.model.history import Key
from celeriac.ports.broker import Action, Claim
from celeriac.ports.delays import Counts, Delayed, Due, Taken
from celeriac.ports.history import Limits, Position
from celeriac.ports.history_sums import Change as SumChange
from celeriac.ports.history_sums import Row, WorkerState
from celeriac.ports.operations import QueueCounts
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan

__all__ = ["VERBS", "Advanced", "AttemptRow", "Client", "EntryRow", "EventRow", "Found", "Given", "Recorded", "Removed",
           "ScheduleChange", "Settled", "SignatureRow", "Verb"]  # fmt: skip


class Given(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A delivery."""

    data: bytes
    queue: str
    token: str
    deliveries: int = 1
    revoked: bool = False
    lost: bool = False


class Settled(msgspec.Struct, array_like=True, gc=False):
    """A settlement. In the hub, `message`, `outcome` and `follow_ups` become parcels; it is used as a `Settlement`."""

    token: str
    action: Action = Action.ACKNOWLEDGE
    outcome: Any = None  # bytes …
    follow_ups: list[Any] = []
    message: Any = None
    leaves_pending: bool = False
    delay: float | None = None
    deliveries: int = 0
    reason: str = ""

    @property
    def delivery(self) -> Settled:
        """What has the token."""
        return self

    @property
    def ends_node(self) -> bool:
        """Whether this ends a node of a workflow."""
        return self.outcome is not None and self.outcome.place is not None and self.outcome.ready


class Advanced(msgspec.Struct, array_like=True, gc=False):
    """An advance of a workflow. In the hub, messages and outcomes become parcels; it is used as an `Advance`."""

    pending: PendingNode
    messages: list[Any] = []
    outcomes: list[Any] = []
    joins: list[int] = []

    def by_workflow(self) -> tuple[list[Any], list[NodeEnd]]:
        """Return what `Advance.by_workflow` does."""
        return Advance.by_workflow(cast(Any, self))


class Found(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message as front ends see it; `at` and `reason` are those of a dead letter, `key` that of a waiting message."""

    id: str
    queue: str
    data: bytes
    state: str = ""
    reason: str = ""
    at: float = 0.0
    key: tuple[Any, ...] = ()


class Removed(msgspec.Struct, array_like=True, gc=False):
    """A removal. In the hub, `outcome` and `follow_ups` become parcels; it is used as a `Removal`."""

    key: tuple[Any, ...]
    outcome: Any = None
    leaves_pending: bool = False
    follow_ups: list[Any] = []


class EntryRow(msgspec.Struct, array_like=True, frozen=True):
    """A schedule: what the store reads, and the sealed bytes of the entry."""

    name: str
    data: bytes
    revision: int = 0
    next_at: int | None = None


class ScheduleChange(msgspec.Struct, array_like=True):
    """A change of a schedule. It is used as a `Change`."""

    before: EntryRow
    after: EntryRow
    messages: list[Any] = []
    plans: list[Plan] = []


AttemptRow: TypeAlias = tuple[float, str, int, bool, str, str, bytes]
"""Of an attempt: when it was done, id, number, whether it is a sample, task, signature; the sealed bytes."""
EventRow: TypeAlias = tuple[str, float, str, str, bytes]
"""Of an event: name, when, kind, id; the sealed bytes."""
SignatureRow: TypeAlias = tuple[bytes, str, float, str]
"""Of a signature: the sealed bytes; status, when it was marked, by whom."""


class Recorded(msgspec.Struct, array_like=True):
    """A batch of the history."""

    lease: str
    complete: int
    sums: list[tuple[Key, bytes]] = []
    attempts: list[AttemptRow] = []
    events: list[EventRow] = []
    signatures: list[tuple[str, float, bytes]] = []


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A client of the hub, as `celeriac hub clients` shows it."""

    name: str
    address: str
    since: float
    seen_at: float
    sessions: int
    requests: int
    workers: int


class Verb(msgspec.Struct, frozen=True):
    """A verb: how its arguments and its result are read."""

    name: str
    arguments: Callable[[bytes | msgspec.Raw], tuple[Any, ...]]
    result: Callable[[bytes | msgspec.Raw], Any]


VERBS: Final[dict[str, Verb]] = {}


def _verb(name: str, *arguments: Any, returns: Any = None) -> None:
    takes: Any = tuple.__class_getitem__(arguments)
    VERBS[name] = Verb(name, msgspec.msgpack.Decoder(takes).decode, msgspec.msgpack.Decoder(returns).decode)


Ids = list[str]
Expires = float | None

_verb("broker.publish", list[bytes])
_verb("broker.lease", bytes, float, returns=int)
_verb("broker.revoke", Ids, float)
_verb("broker.broadcast", str, list[bytes])
_verb("broker.last_broadcast", returns=int)
_verb("broker.heard", str, int, float, returns=tuple[int, list[bytes]])

_verb("leases.receive", int, int, list[int], list[str], dict[str, int], float, returns=list[Given])
_verb("leases.void", int, list[int])
_verb("leases.settle", int, list[Settled], returns=list[bool])
_verb("leases.put_aside", int, list[tuple[str, str, bytes]])
_verb("leases.advance", int, list[Advanced], returns=list[bool])
_verb("leases.renew", int, float)
_verb("leases.sweep", int, int, Expires, bool, returns=tuple[list[Given], list[tuple[bytes, list[Found]]]])
_verb("leases.overdue", int, Expires, float, returns=bool)
_verb("leases.end", int)
_verb("leases.held", int, list[Claim], returns=list[Given])

_verb("operations.queues", returns=list[QueueCounts])
_verb("operations.peek", str, int, int, returns=list[Found])
_verb("operations.heads", str, returns=list[Found])
_verb("operations.scheduled", str | None, int, int, returns=list[Found])
_verb("operations.find", Ids, returns=list[Found])
_verb("operations.holder", str, returns=list[tuple[bytes, float, float, int]])
_verb("operations.revoked", Ids, returns=Ids)
_verb("operations.waiting", str, int, returns=list[Found])
_verb("operations.remove", str, list[Removed], returns=list[bool])
_verb("operations.rewrite", dict[str, tuple[bytes, bytes]], list[str], returns=int)
_verb("operations.pause", str)
_verb("operations.resume", str)
_verb("operations.dead", str | None, int, int, returns=list[Found])
_verb("operations.resend", dict[str, bytes], returns=int)
_verb("operations.drop", Ids, returns=int)
_verb("operations.workers", returns=list[tuple[bytes, float, float]])

_verb("backend.store", list[bytes], returns=list[bool])
_verb("backend.fetch", Ids, float, returns=dict[str, bytes])
_verb("backend.forget", Ids)
_verb("backend.recent", int, int, str | None, returns=list[tuple[str, bytes]])
_verb("backend.plant", Plan, bool)
_verb("backend.trees", Ids, returns=dict[str, bytes])
_verb("backend.unfinished", int, returns=list[str] | None)
_verb("backend.uproot", Ids)
_verb("backend.conclude", list[tuple[bytes, bool]], returns=list[bool])
_verb("backend.claim_pending", int, float, returns=list[tuple[PendingNode, bool]])
_verb("backend.pending", float, returns=bool)
_verb("backend.advance", list[Advanced], returns=list[bool])

_verb("schedules.create", list[EntryRow], returns=list[bool])
_verb("schedules.change", list[ScheduleChange], returns=list[bool])
_verb("schedules.remove", dict[str, int | None], returns=list[bool])
_verb("schedules.get", Ids, returns=list[EntryRow])
_verb("schedules.page", str, int, returns=list[EntryRow])
_verb("schedules.due", int, returns=tuple[int, list[EntryRow], int | None])
_verb("schedules.set_aside", dict[str, int])

_verb("claims.claim", str, bytes, float, float, returns=bytes | None)

_verb("delays.keep", list[Delayed])
_verb("delays.take_due", int, float, returns=Due)
_verb("delays.take", Ids, float, returns=list[Taken])
_verb("delays.take_from", str, int, float, returns=list[Taken])
_verb("delays.remove", list[Taken], returns=list[bool])
_verb("delays.release", list[Taken])
_verb("delays.counts", returns=dict[str, Counts])
_verb("delays.page", str | None, bool, int, int, returns=list[Taken])

_verb("history.record", Recorded, float)
_verb("history.prune", Limits, float, returns=int)
_verb("history.attempts", Filter, Position | None, int, returns=list[tuple[Position, bytes]])
_verb("history.count_attempts", returns=int)
_verb("history.attempts_of_task", str, returns=list[bytes])
_verb("history.signature_rows", Ids | None, float, returns=list[SignatureRow])
_verb("history.mark", str, str, str, float, returns=bool)
_verb("history.audit", EventRow)
_verb("history.event_rows", list[str], float, int, str | None, returns=list[bytes])
_verb("history.rows", int, int, int, int | None, returns=list[Row])
_verb("history.unfolded", returns=list[Row])
_verb("history.get", list[Key], returns=list[Row])
_verb("history.swap", list[SumChange], dict[str, int], returns=bool)
_verb("history.workers", returns=dict[str, WorkerState])

_verb("hub.clients", returns=list[Client])
