"""Workers: what runs in each of their slots, since when, and whether it takes too long; and orders to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from celeriac import states
from celeriac.dashboard.pages import SELDOM, Context, Done, Entry, Pages
from celeriac.dashboard.roster import Seen, roster_of
from celeriac.dashboard.view import View
from celeriac.dashboard.wording import duration
from celeriac.errors import nearest
from celeriac.inspector import ActiveTask, Answers, Child, Inspector
from celeriac.model.message import COROUTINE, PLAIN
from celeriac.web.problems import Problem

__all__ = ["PAGES", "Lane", "Slot", "lanes_of", "slot_of"]

PAGES = Pages()
CELLS: Final = 48  # slots that are drawn one by one
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
MOST_HELD: Final = 200  # tasks of a lost worker
LANES: Final = {PLAIN: "plain functions", COROUTINE: "coroutines"}


class Slot(NamedTuple):
    """A slot of a worker, as its strip shows it: empty without a task."""

    task: ActiveTask | None
    kind: str  # "idle", "busy" or "late"
    text: str


class Lane(NamedTuple):
    """The slots of one lane: one by one, or as numbers if they are many."""

    name: str
    busy: int
    of: int
    slots: list[Slot]


def lanes_of(one: Seen, now: float) -> list[Lane]:
    """Return the slots of a worker by lane. What runs is in the first ones; workers do not number them."""
    capacity: Mapping[str, int] = one.load.capacity if one.load is not None else one.worker.concurrency
    busy: Mapping[str, int] = one.load.busy if one.load is not None else {}
    left = sorted(one.active, key=lambda task: task.started_at)
    found = []
    for lane, of in sorted(capacity.items(), key=lambda item: item[0] != PLAIN):
        number = min(of, max(busy.get(lane, 0), 0))
        mine, left = left[:number], left[number:]
        if of > CELLS:
            found.append(Lane(LANES.get(lane, lane), number, of, []))
            continue
        slots = [slot_of(task, now) for task in mine]
        slots += [Slot(None, "busy", "busy") for _ in range(number - len(slots))]
        slots += [Slot(None, "idle", "idle") for _ in range(of - len(slots))]
        found.append(Lane(LANES.get(lane, lane), number, of, slots))
    return found


def slot_of(task: ActiveTask, now: float) -> Slot:
    """Return a slot with a task in it."""
    ran = max(0.0, now - task.started_at)
    is_late = task.soft_time_limit is not None and ran > task.soft_time_limit
    late = f", over its soft limit of {duration(task.soft_time_limit)}" if is_late else ""
    return Slot(task, "late" if is_late else "busy", f"{task.task} for {duration(ran)}{late}")


# --- The list -----------------------------------------------------------------------------------------


@PAGES.page("workers", "/workers", "workers:read", "Workers", entry=Entry(60, "r"))
async def _list(view: View) -> Context:
    return {}


@PAGES.fragment("workers", "list", ("workers",), shared=True)
async def _rows(view: View) -> Context:
    found = await roster_of(view.site).look(view.within)
    rows = [(one, lanes_of(one, view.now)) for one in found]
    up = [one for one in found if not one.gone]
    return {"rows": rows, "up": len(up), "busy": sum(one.busy for one in up), "slots": sum(one.slots for one in up),
            "module": view.app.main or "APP"}  # fmt: skip


# --- One worker ---------------------------------------------------------------------------------------


async def _found(view: View) -> Seen:
    label = view.path["worker"]
    one = await roster_of(view.site).find(label, view.within)
    if one is None:
        known = [seen.label for seen in await roster_of(view.site).look(view.within)]
        raise Problem("unknown-worker", f"No worker named {label!r} is running, or was lost in the last day."
                      f"{nearest(label, known)}")  # fmt: skip
    return one


@PAGES.page("worker", "/workers/{worker:path}", "workers:read", "Worker", under="workers")
async def _worker(view: View) -> Context:
    one = await _found(view)
    return {"title": one.label, "one": one}


@PAGES.fragment("worker", "slots", ("workers",))
async def _slots(view: View) -> Context:
    one = await _found(view)
    every = await roster_of(view.site).look(view.within)
    namesakes = sum(seen.worker.name == one.worker.name and not seen.gone for seen in every)
    known = {one.queue for one in await view.counts()} | set(view.app.queues)
    running = sorted(one.active, key=lambda task: task.started_at)
    return {"one": one, "lanes": lanes_of(one, view.now), "running": running,
            "slot_of": slot_of, "namesakes": namesakes, "tasks": sorted(view.app.tasks), "levels": LEVELS,
            "queues": sorted(known - set(one.queues)), "held": await _held(view, one)}  # fmt: skip


async def _held(view: View, one: Seen) -> list[tuple[ActiveTask, str]]:
    """Return what a worker that is gone held, and what became of it."""
    if not one.gone or not one.active:
        return []
    some = one.active[:MOST_HELD]
    views = await view.site.read(view.site.inspector.find([task.id for task in some]))
    found = []
    for task in some:
        now = views[task.id]
        found.append((task, now.place or (now.state if now.state != states.PENDING else "unknown")))
    return found


@PAGES.fragment("worker", "statistics", ("tasks",), shared=True, every=SELDOM)
async def _statistics(view: View) -> Context:
    one = await _found(view)
    if one.gone:
        return {"stats": None, "children": []}
    answers = await view.site.read(Inspector(view.app, [one.worker.name], 1.0).stats())
    stats = answers.values.get(one.label)
    children: Sequence[Child] = stats.pool.children if stats is not None else []
    tasks = sorted(stats.tasks.items(), key=lambda item: -item[1].count) if stats is not None else []
    return {"stats": stats, "children": children, "tasks": tasks}


# --- Orders -------------------------------------------------------------------------------------------


async def _order(view: View, name: str, arguments: Mapping[str, Any] | None = None) -> Done:
    """Send an order to the worker of the page, and return what it says."""
    one = await _found(view)
    if one.gone:
        raise Problem("unknown-worker", f"The worker {one.label} is gone, and takes no orders.")
    answers: Answers[Any] = await view.site.read(Inspector(view.app, [one.worker.name]).order(name, arguments))
    if answers.errors:
        return Done("; ".join(f"{label}: {text}" for label, text in answers.errors.items()), kind="fault")
    if not answers.values:
        return Done(f"The worker {one.label} did not answer in time. It may carry out the order yet.", kind="warning")
    said = [f"{label} {value['ok'] if isinstance(value, dict) and 'ok' in value else value}"
            for label, value in answers.values.items()]  # fmt: skip
    return Done(f"{'; '.join(said)}.")


def _number(view: View, name: str, least: int, most: int) -> int:
    given = view.form.get(name, "").strip()
    if not given.isdecimal() or not least <= int(given[:9]) <= most:
        raise Problem("bad-body", f"{name} must be a number from {least} to {most:,}, not {given[:40]!r}.")
    return int(given)


def _seconds(view: View, name: str) -> float | None:
    given = view.form.get(name, "").strip()
    try:
        return float(given) if given else None
    except ValueError:
        raise Problem("bad-body", f"{name} must be a number of seconds, or empty, not {given[:40]!r}.") from None


@PAGES.action("/workers/{worker:path}/pool", "workers:control")
async def _resize(view: View) -> Done:
    """Change the number of children of a worker."""
    order = "pool_shrink" if view.form.get("change") == "shrink" else "pool_grow"
    return await _order(view, order, {"n": _number(view, "n", 1, 1000)})


@PAGES.action("/workers/{worker:path}/add-queue", "workers:control")
async def _add_queue(view: View) -> Done:
    """Let a worker receive from another queue."""
    queue = view.form.get("queue", "").strip()
    await view.site.read(view.site.inspector.check_queues([queue]))
    return await _order(view, "add_consumer", {"queue": queue})


@PAGES.action("/workers/{worker:path}/cancel-queue", "workers:control")
async def _cancel_queue(view: View) -> Done:
    """Let a worker receive no more from a queue."""
    return await _order(view, "cancel_consumer", {"queue": view.form.get("queue", "")})


@PAGES.action("/workers/{worker:path}/rate-limit", "workers:control")
async def _rate_limit(view: View) -> Done:
    """Limit how often a worker starts a task."""
    rate = view.form.get("rate", "").strip() or None
    return await _order(view, "rate_limit", {"task": view.form.get("task", ""), "rate": rate})


@PAGES.action("/workers/{worker:path}/time-limit", "workers:control")
async def _time_limit(view: View) -> Done:
    """Limit how long a task may run in a worker."""
    limits = {"soft": _seconds(view, "soft"), "hard": _seconds(view, "hard")}
    return await _order(view, "time_limit", {"task": view.form.get("task", ""), **limits})


@PAGES.action("/workers/{worker:path}/log-level", "workers:control")
async def _log_level(view: View) -> Done:
    """Set the log level of a worker."""
    return await _order(view, "log_level", {"level": view.form.get("level", "")})


@PAGES.action("/workers/{worker:path}/stop", "workers:control")
async def _stop(view: View) -> Done:
    """Stop a worker, once what it runs has ended."""
    return await _order(view, "shutdown")


@PAGES.action("/workers/{worker:path}/forget", "workers:control")
async def _forget(view: View) -> Done:
    """Strike a lost worker from the list."""
    label = view.path["worker"]
    roster_of(view.site).forget(label)
    return Done(f"{label} is struck from the list.", to=view.url("/workers"))
