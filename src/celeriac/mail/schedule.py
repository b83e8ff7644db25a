"""Decides which mails about failures are due. Pure: failure signatures and what was mailed go in, notices come out.

    new ──30 s──► mail ──5 min──► mail ──30 min──► mail ──4 h──► mail ──a day──► mail …     while it goes on failing
    regressed, resolved, or quiet for more than a day: a mail at once, and the pauses begin again

More than `DIGEST` signatures within five minutes share one mail. `worker/mailer.py` reads the history, asks this
module, and sends what is due as the task `celeriac.mail`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from celeriac.model.gate import Instant
from celeriac.model.history import Event, FailureSignature

__all__ = [
    "HOUR",
    "KIND",
    "LOOKED_BACK",
    "PAUSES",
    "REMEMBERED",
    "Mail",
    "Mailed",
    "Notice",
    "Plan",
    "decide",
    "event_of",
    "failure_call",
    "mailed_of",
]

KIND: Final = "mail"
"""The kind of the event in the history that a mail was sent."""

DAY: Final = 86_400.0
HOUR: Final = 3_600.0
GATHER: Final = 30.0  # seconds from a signature's first failure to its first mail
PAUSES: Final = (300.0, 1_800.0, 14_400.0, DAY)  # seconds after its first mail, its second …
WINDOW: Final = 300.0  # seconds in which …
DIGEST: Final = 5  # … so many signatures are mailed one by one
REMEMBERED: Final = 30 * DAY  # how old mails may be that are still looked at
LOOKED_BACK: Final = 3 * DAY  # for failures
NEW: Final = 3 * DAY  # what began longer ago, and was not mailed, is not new
LISTED: Final = 50  # signatures in one mail
TEXT: Final = 500  # characters of each text in a message
OWN: Final = "celeriac.mail"  # the task that sends mails: nothing is mailed about its failures


class Notice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be told about one signature."""

    signature: FailureSignature
    kind: str  # "new", "more", "again", "regressed", "resolved"
    count: int = 0  # failures since the last mail about it
    since: Instant = 0.0  # when that was, or its first failure
    step: int = 0  # how many mails there were before, since the pauses began
    window: str = ""  # with the signature, it names the mail: whoever decides on the same facts finds the same


class Mail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mail: about one signature, or a digest."""

    name: str  # the same for whoever decides on the same facts: of the claim, the message and the mail's Message-ID
    notices: list[Notice]
    last_until: Instant | None = None  # it is the last until then: `mail_max_per_hour` is reached


class Mailed(msgspec.Struct, frozen=True, array_like=True):
    """What was last mailed about a signature."""

    at: float
    kind: str
    step: int
    count: int  # failures that there were by then


class Plan(msgspec.Struct, frozen=True):
    """What is to be done."""

    mails: list[Mail]
    waits: bool  # something is not due yet, or held back: decide again


def decide(signatures: Iterable[FailureSignature], mailed: Mapping[str, Mailed], sent: Sequence[float], now: float,
           most_per_hour: int, wanted: Callable[[FailureSignature], bool] = lambda one: True) -> Plan:  # fmt: skip
    """Return the mails that are due. `mailed`: by signature; `sent`: when mails were sent in the last hour."""
    due: list[Notice] = []
    gathering: list[Notice] = []
    waits = False
    for one in signatures:
        if one.task == OWN or one.status == "muted" or not wanted(one):
            continue
        notice, at = _notice(one, mailed.get(one.signature), now)
        if notice is not None:
            waits = waits or at > now
            if at <= now:
                due.append(notice)
            elif notice.step == 0:
                gathering.append(notice)
    if not due:
        return Plan([], waits)
    latest = max((one.at for one in mailed.values()), default=0.0)
    last_hour = sorted(at for at in sent if at > now - HOUR)
    left = most_per_hour - len(last_hour)
    just_mailed = sum(one.at > now - WINDOW for one in mailed.values())
    if left <= 0:
        return Plan([], True)
    if len(due) + len(gathering) + just_mailed > DIGEST:
        if just_mailed > DIGEST and latest > now - WINDOW:  # a digest was sent just now
            return Plan([], True)
        groups = [[*due, *gathering]]
    elif len(due) > left:
        groups = [[one] for one in due[: left - 1]] + [due[left - 1 :]]
    else:
        groups = [[one] for one in due]
    mails = [_mail(group, latest, now) for group in groups]
    if len(mails) == left:
        until = (last_hour[0] if last_hour else now) + HOUR
        mails[-1] = msgspec.structs.replace(mails[-1], last_until=until)
    return Plan(mails, waits)


def _notice(one: FailureSignature, before: Mailed | None, now: float) -> tuple[Notice | None, float]:
    """Return what there is to tell of a signature, and when; None if there is nothing."""
    count = one.count - (before.count if before is not None else 0)
    step, kind, at = 0, "new", now
    if one.status == "resolved" and not one.regressed:
        if before is None or before.kind == "resolved" or before.at >= one.marked_at or one.marked_at < now - DAY:
            return None, 0.0
        kind = "resolved"
    elif count <= 0 or (before is None and one.last < now - DAY):  # only retries, or long ago, when nobody mailed
        return None, 0.0
    elif one.status == "resolved" and (before is None or before.kind == "resolved" or before.at < one.marked_at):
        kind = "regressed"
    elif before is None:
        if one.first > now - NEW:
            at = one.first + GATHER
        else:
            kind = "again"
    else:
        at = before.at + PAUSES[min(before.step, len(PAUSES) - 1)]
        kind, step = ("again", 0) if now - at > DAY else ("more", before.step + 1)
    window = f"{int(before.at)}" if before is not None else "0" if kind == "new" else f"a{int(now / DAY)}"
    since = before.at if before is not None else one.first if kind == "new" else max(one.first, one.marked_at)
    return Notice(signature=one, kind=kind, count=count, since=since, step=step, window=window), at


def _mail(notices: list[Notice], latest: float, now: float) -> Mail:
    if len(notices) == 1:
        return Mail(name=f"{notices[0].signature.signature}.{notices[0].window}", notices=notices)
    return Mail(name=f"digest.{int(latest) if latest else f'a{int(now / DAY)}'}",
                notices=sorted(notices, key=lambda one: one.count, reverse=True))  # fmt: skip


def failure_call(mail: Mail, now: float) -> dict[str, Any]:
    """Return the argument of the task for a mail about failures. A long digest is cut."""
    notices = [msgspec.structs.replace(one, signature=_short(one.signature)) for one in mail.notices[:LISTED]]
    listed = msgspec.structs.replace(mail, notices=notices)
    return {"failures": msgspec.to_builtins(listed), "others": len(mail.notices) - len(notices), "at": now}


def _short(one: FailureSignature) -> FailureSignature:
    """Return a signature without what mails do not show."""
    frames = [frame[:TEXT] for frame in one.frames]
    return msgspec.structs.replace(one, title=one.title[:TEXT], frames=frames, ids=[])


# --- What was mailed, as events of the history ---------------------------------------------------------


def event_of(mail: Mail, by: str, now: float) -> Event:
    """Return the event that notes a mail."""
    first = mail.notices[0].signature
    about = {one.signature.signature: [one.kind, one.step, one.signature.count] for one in mail.notices}
    return Event(at=now, kind=KIND, id=first.signature if len(mail.notices) == 1 else "", by=by, text=mail.name,
                 data={"about": about})  # fmt: skip


def mailed_of(events: Iterable[Event]) -> dict[str, Mailed]:
    """Return what was last mailed about each signature, by these events. Events that others have damaged are skipped.

    >>> event = Event(at=9.0, kind=KIND, data={"about": {"62f0": ["new", 0, 37]}})
    >>> mailed_of([event])["62f0"]
    Mailed(at=9.0, kind='new', step=0, count=37)
    """
    found: dict[str, Mailed] = {}
    for event in sorted(events, key=lambda event: event.at):
        about: Any = event.data.get("about")
        for signature, told in about.items() if isinstance(about, dict) else ():
            try:
                found[signature] = msgspec.convert([event.at, *told], Mailed)
            except (TypeError, msgspec.ValidationError):
                continue
    return found
