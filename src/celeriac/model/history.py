"""What the history keeps: counts by time, single attempts, failures by signature, events.

Workers write them (`worker/recorder.py`) through the port (`ports/history.py`); the command and the windows read them.
Times of slots are whole seconds since the epoch, multiples of their step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from celeriac.model.gate import AttemptOrNone, Duration, Instant, Name, OptionalName, Unreadable, check_nesting, reader
from celeriac.model.spread import Count, Spread

__all__ = [
    "AGES",
    "BY_SIGNATURE",
    "COUNTERS",
    "EVER",
    "FAILED",
    "SAMPLED",
    "SLOT",
    "Attempt",
    "Batch",
    "Event",
    "FailureSignature",
    "Key",
    "Status",
    "Sums",
    "decode_attempt",
    "decode_event",
    "decode_signature",
    "decode_sums",
    "encode",
    "samples_only",
]

SLOT: Final = 10
"""Seconds: the finest step, in which workers count."""

HOUR: Final = 3_600
DAY: Final = 86_400

AGES: Final[dict[int, int]] = {SLOT: 7_200, 60: DAY // 2, 600: 3 * DAY, HOUR: 90 * DAY, DAY: 5 * 365 * DAY}
"""The steps (seconds), from fine to coarse, and for how long each is kept; then the next holds the same."""

EVER: Final = 0
"""The step of totals: all that was ever counted, without times and signatures."""

BY_SIGNATURE: Final = 1
"""The step of all that was ever counted of each failure signature."""

COUNTERS: Final = 2
"""The step of what workers count besides attempts (`worker/counters.py`): only totals are kept.

Of a key, `state` is the counter's name, `error` its reason.
"""

SAMPLED: Final = frozenset({"SUCCESS", "IGNORED"})
"""The states of which a sample is kept."""

FAILED: Final = "failed: "
"""What the reason of a dead letter begins with that is kept because its task failed (`task_keep_failed`)."""

Text = Annotated[str, Meta(max_length=20_000)]
Status = Literal["open", "resolved", "muted"]


class Key(NamedTuple):
    """What is counted together. `lease` is empty once a slot of all workers is folded into one."""

    step: int
    at: int
    lease: str
    task: str
    queue: str
    state: str
    error: str = ""  # the class of the exception, for FAILURE and RETRY
    signature: str = ""


class Sums(msgspec.Struct, array_like=True):
    """How many attempts ended, how long they ran, and how long they had waited before."""

    n: Count = 0
    runtime: Spread = msgspec.field(default_factory=Spread)
    wait: Spread = msgspec.field(default_factory=Spread)

    def merge(self, other: Sums) -> None:
        """Add what another has counted."""
        self.n += other.n
        self.runtime.merge(other.runtime)
        self.wait.merge(other.wait)

    def copy(self) -> Sums:
        """Return the same, which does not change with this."""
        return Sums(self.n, self.runtime.copy(), self.wait.copy())


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One attempt that ended: a failure, or one of a sample of the successes, without its result."""

    id: Name
    task: Name
    queue: OptionalName = ""
    state: Name
    attempt: AttemptOrNone = 1
    worker: OptionalName = ""
    sent_at: Instant = 0.0
    due_at: Instant | None = None
    started_at: Instant = 0.0
    done_at: Instant = 0.0
    runtime: Duration = 0.0
    wait: Duration = 0.0
    error: OptionalName = ""  # the class of the exception
    message: Text = ""  # of the exception
    traceback: Text = ""
    signature: OptionalName = ""
    share: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0  # it stands for 1 / share attempts
    root_id: Name | None = None
    parent_id: Name | None = None
    group_id: Name | None = None
    headers: dict[str, Any] = {}
    release: OptionalName = ""  # of the worker's code (the setting `release`), if it has failed
    kept: bytes | None = None  # of a final failure: the message, so that it can be sent again (`task_keep_failed`)


class FailureSignature(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Failures that have the same cause, as far as a program can tell: see `model/failure_signature.py`."""

    signature: Name
    task: Name
    error: OptionalName = ""
    title: Text = ""  # the exception of the first failure, with its message
    frames: list[Text] = []  # the last frames of the app's own code, "module.function", the outermost first
    first: Instant = 0.0
    last: Instant = 0.0
    workers: list[OptionalName] = []  # the latest
    ids: list[Name] = []  # the latest tasks
    first_release: OptionalName = ""  # of the code that failed first; empty: it had no name
    releases: list[OptionalName] = []  # that failed, the latest last
    count: Count = 0  # final failures; set by the reader
    retries: Count = 0  # failures after which the task was tried again; set by the reader
    status: Status = "open"  # set by the reader
    marked_at: Instant = 0.0  # when the status was set; set by the reader
    marked_by: OptionalName = ""

    @property
    def regressed(self) -> bool:
        """Whether it has come back since it was resolved."""
        return self.status == "resolved" and self.last > self.marked_at

    def merged(self, later: FailureSignature, most: int = 10) -> FailureSignature:
        """Return it with what a later batch tells."""
        return msgspec.structs.replace(
            self,
            first=min(self.first, later.first),
            last=max(self.last, later.last),
            workers=_latest(self.workers, later.workers, most),
            ids=_latest(self.ids, later.ids, most),
            first_release=(self if self.first <= later.first else later).first_release,
            releases=_latest(self.releases, later.releases, most),
        )


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened once: a worker started, an operator did something."""

    at: Instant
    kind: Name  # "worker.started", "worker.stopped", "action", "mail"
    id: OptionalName = ""  # of the task, workflow, queue or worker that it is about
    by: OptionalName = ""  # the worker or the person
    text: Text = ""
    data: dict[str, Any] = {}


class Batch(msgspec.Struct, kw_only=True):
    """What one worker reports: all sums of its lease in these slots so far, not what was added since the last batch."""

    lease: str  # a name for one run of a worker, which no other has
    complete: int = 0  # the sums of the slots up to this one are final
    sums: dict[Key, Sums] = {}
    attempts: list[Attempt] = []
    signatures: list[FailureSignature] = []
    events: list[Event] = []

    def __bool__(self) -> bool:
        return bool(self.sums or self.attempts or self.signatures or self.events)


def samples_only(attempt: Attempt) -> bool:
    """Return whether an attempt is kept as a sample, for a day, and not as a failure."""
    return attempt.state in SAMPLED


def _latest(old: list[str], new: list[str], most: int) -> list[str]:
    return list(dict.fromkeys([*reversed(new), *reversed(old)]))[:most][::-1]


def _nesting(value: Attempt | Event) -> None:
    given = value.headers if isinstance(value, Attempt) else value.data
    if given:
        check_nesting(given, "the headers of an attempt")


def _mergeable(sums: Sums) -> None:
    if not sums.runtime.n <= sums.n >= sums.wait.n:
        raise Unreadable("sums that contradict each other")


encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
"""Return sums, an attempt, a signature or an event as bytes."""

decode_sums: Callable[[bytes | memoryview], Sums] = reader(Sums, "sums of the history", _mergeable)
decode_attempt: Callable[[bytes | memoryview], Attempt] = reader(Attempt, "an attempt of the history", _nesting)
decode_signature: Callable[[bytes | memoryview], FailureSignature] = reader(FailureSignature, "a failure signature")
decode_event: Callable[[bytes | memoryview], Event] = reader(Event, "an event of the history", _nesting)
