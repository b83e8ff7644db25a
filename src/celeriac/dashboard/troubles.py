"""Troubles: what is wrong, in plain words, with what to do about it. Shown at the top of the overview, the worst first.

Pure functions of what was collected; nothing is asked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple

from celeriac.dashboard.trends import Trends
from celeriac.dashboard.view import segment
from celeriac.dashboard.wording import duration, number, rate
from celeriac.model.history import FailureSignature
from celeriac.ports.operations import QueueCounts
from celeriac.web.collecting import Collected, receivers

__all__ = ["Trouble", "queue_troubles", "troubles"]

NEW: Final = 3600.0  # seconds, for which a failure signature is new
LONG: Final = 300.0  # seconds that a task may wait before it is told
GROWS: Final = 0.5  # messages per second by which a queue has to grow …
MANY: Final = 100  # … and how many it has to have
SHOWN: Final = 3  # names in a list
LONGEST: Final = 140  # characters of the title of a failure
MOST: Final = 8  # that are told; the others are counted

Weight = Literal["fault", "warning"]
SOURCES: Final = {
    "broker": "The broker cannot be reached: queues and workers are not up to date, and nothing can be sent.",
    "history": "The history cannot be read: rates and failures are not up to date.",
    "schedules": "The schedules cannot be read.",
}


class Trouble(NamedTuple):
    """Something that is wrong: how bad, what, where to look, and what to do."""

    weight: Weight
    text: str
    path: str | None = None
    label: str = ""  # of the link
    command: str = ""


def troubles(collected: Collected, trends: Trends, signatures: Sequence[FailureSignature],
             module: str) -> list[Trouble]:  # fmt: skip
    """Return what is wrong, the worst first."""
    found = [Trouble("fault", text) for source, text in SOURCES.items() if collected.up.get(source) is False]
    found += _of_workers(collected)
    if why := next((one.uncounted for one in collected.queues or () if one.uncounted), ""):
        found.append(Trouble("warning", f"Numbers of waiting tasks and dead letters are unknown or too low: {why}"))
    for one in collected.queues or ():
        found += queue_troubles(one, collected, trends, module)
    if collected.workers == {} and not found:
        found.append(Trouble("warning", "No worker is running. Start one:", "/workers", "Workers",
                             f"celeriac -A {module} worker"))  # fmt: skip
    found += _of_failures(signatures, collected.now)
    found.sort(key=lambda one: one.weight != "fault")
    if len(found) > MOST:
        rest = len(found) - MOST + 1
        found[MOST - 1 :] = [Trouble("warning", f"And {rest} more troubles like these.", "/queues", "Queues")]
    return found


def _of_workers(collected: Collected) -> Iterator[Trouble]:
    if not collected.up.get("workers", False):
        return
    silent = [label for label in collected.workers or {} if label not in collected.load]
    if len(silent) == 1:
        text = f"The worker {silent[0]} does not answer. If that lasts, its tasks go to others."
        yield Trouble("warning", text, f"/workers/{segment(silent[0])}", "Worker")
    elif silent:
        text = f"{number(len(silent))} workers do not answer: {_listed(silent)}."
        yield Trouble("warning", text, "/workers", "Workers")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {number(len(names) - SHOWN)} more" if len(names) > SHOWN else shown


def queue_troubles(one: QueueCounts, collected: Collected, trends: Trends, module: str) -> Iterator[Trouble]:
    """Yield what is wrong with a queue: the cause alone, and not what follows from it."""
    waits = "1 task waits" if one.ready == 1 else f"{number(one.ready)} tasks wait"
    path = f"/queues/{segment(one.queue)}"
    oldest = collected.latencies.get(one.queue, 0.0)
    slope = trends.slope(one.queue)
    if one.paused:
        yield Trouble("warning", f"The queue {one.queue} is paused, and {waits}." if one.ready else
                      f"The queue {one.queue} is paused.", path, "Resume it")  # fmt: skip
    elif not one.ready or collected.workers is None:
        return
    elif not receivers(collected, one.queue):
        what = "No worker is running" if not collected.workers else f"No worker receives from the queue {one.queue}"
        where = f", {waits} in {one.queue}." if not collected.workers else f", and {waits}."
        yield Trouble("fault", f"{what}{where} Start one:", path, "Queue",
                      f"celeriac -A {module} worker -Q {one.queue}" if one.queue.isidentifier() else "")  # fmt: skip
    elif slope is not None and slope >= GROWS and one.ready >= MANY:
        yield Trouble("warning", f"The queue {one.queue} grows by {rate(slope)}: {waits}, the oldest for "
                      f"{duration(oldest)}. Its workers are too few, or too slow.", path, "Queue")  # fmt: skip
    elif oldest >= LONG:
        yield Trouble("warning", f"The oldest task in the queue {one.queue} has waited for {duration(oldest)}.", path,
                      "Queue")  # fmt: skip


def _of_failures(signatures: Sequence[FailureSignature], now: float) -> Iterator[Trouble]:
    for one in signatures:
        if one.regressed:
            yield Trouble("fault", f"A failure that was resolved is back: {_described(one)}.", _path(one), "Failure")
    new = [one for one in signatures if one.status == "open" and one.first >= now - NEW]
    if len(new) > 2:
        latest = max(new, key=lambda one: one.first)
        text = f"{number(len(new))} new failures in the last hour, the latest {duration(now - latest.first)} ago: "
        yield Trouble("warning", f"{text}{_described(latest)}.", "/failures", "Failures")
        return
    for one in new:
        text = f"New failure, {duration(now - one.first)} ago: {_described(one)}."
        yield Trouble("warning", text, _path(one), "Failure")


def _described(one: FailureSignature) -> str:
    title = one.title.partition("\n")[0]
    return f"{title if len(title) <= LONGEST else title[: LONGEST - 1] + '…'} in {one.task}"


def _path(one: FailureSignature) -> str:
    return f"/failures/{segment(one.signature)}"
