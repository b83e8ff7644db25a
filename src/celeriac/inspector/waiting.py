"""Why a message waits: what stops its queue, then what it has to wait for. Pure; called by `explaining.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote

from celeriac import states
from celeriac.errors import closest
from celeriac.inspector.explanation import Reason
from celeriac.inspector.facts import PEEKED, Facts
from celeriac.inspector.views import Circumstances, Told
from celeriac.model.durations import duration

__all__ = ["obstacles", "waiting"]

MOST_SHOWN = 3  # tasks that one reason names
RATE_HORIZON = 61.0  # seconds: how far ahead a rate limit sends messages back at most
SOON = 2.0  # seconds within which a worker takes what it could take


def waiting(facts: Facts) -> Iterator[Reason]:
    """Yield why a ready or scheduled message is not with a worker: what stops it, before what only delays it."""
    message, place = facts.view.message, facts.view.place
    assert message is not None
    expired = message.expires_at is not None and message.expires_at <= facts.now
    if facts.revoked:
        yield Reason("revoked", "It was revoked: it ends as REVOKED as soon as a worker receives it.",
                     "Nothing has to be done.")  # fmt: skip
    if expired:
        ago = duration(facts.now - (message.expires_at or 0.0))
        yield Reason("expired", f"It expired {ago} ago: it ends as REVOKED as soon as a worker receives it.",
                     "Send it again with a later `expires`, if it is still wanted.",
                     since=message.expires_at)  # fmt: skip
    found = list(obstacles(facts))
    yield from found
    yield from _not_due(facts) if place == "scheduled" else ()
    if place == "ready":
        stopped = any(reason.kind != "slots_taken" for reason in found)
        yield from _turn(facts, bool(found), stopped or facts.revoked or expired)
    if message.expires_at is not None and not expired:
        yield Reason("expires", f"It expires in {duration(message.expires_at - facts.now)}: unless it has started by "
                     "then, it ends as REVOKED.", "", until=message.expires_at)  # fmt: skip


def obstacles(facts: Facts) -> Iterator[Reason]:
    """Yield what keeps every worker from running such a task of its queue."""
    queue, counts = facts.queue, facts.counts
    if counts is not None and counts.paused:
        yield Reason("queue_paused", f"The queue {queue!r} is paused: no worker receives from it.", "Resume it.",
                     f"queues resume {quote(queue)}")  # fmt: skip
    receiving = _receiving(facts)
    if not facts.workers:
        yield Reason("no_worker", "No worker is running.", "Start one.", f"worker -Q {quote(queue)}")
    elif not receiving:
        yield _no_receiver(facts)
    else:
        yield from _unregistered(facts, receiving)
        yield from _no_slots(facts, receiving)


def _receiving(facts: Facts) -> dict[str, Circumstances | None]:
    """Return the workers that receive from the queue, with what they have told; None for those that did not reply."""
    told = facts.replies.values
    found: dict[str, Circumstances | None] = {
        worker: reply for worker, reply in told.items() if facts.queue in reply.queues
    }
    silent = {worker.name for worker in facts.workers if worker.name not in told and facts.queue in worker.queues}
    return found | dict.fromkeys(sorted(silent - found.keys()))


def _no_receiver(facts: Facts) -> Reason:
    served = {queue for worker in facts.workers for queue in worker.queues}
    served = {queue for reply in facts.replies.values.values() for queue in reply.queues} or served
    near = closest(facts.queue, served)
    hint = f" One does from {near!r}: is that meant?" if near else ""
    count = f"{len(facts.workers)} workers run, and none receives" if len(facts.workers) > 1 else \
        "The one worker that runs does not receive"  # fmt: skip
    text = f"{count} from the queue {facts.queue!r}.{hint}"
    data = {"nearest": near} if near else {}
    return Reason("no_receiver", text, "Let the workers receive from it until they are restarted, or start one with "
                  f"-Q {quote(facts.queue)}.", f"control add-consumer {quote(facts.queue)}", data=data)  # fmt: skip


def _unregistered(facts: Facts, receiving: Mapping[str, Circumstances | None]) -> Iterator[Reason]:
    message = facts.view.message
    known = [reply.registered for reply in receiving.values() if reply is not None]
    since = message.unknown_since if message is not None else None
    if not facts.task or not known or (all(known) and since is None):
        return
    near = next((reply.nearest for reply in receiving.values() if reply is not None and reply.nearest), None)
    hint = f" Did you mean {near!r}?" if near else ""
    end = None if since is None else since + facts.unknown_task_seconds
    then = ("" if end is None else f" It goes back to the queue each time, and becomes a dead letter in "
            f"{duration(max(0.0, end - facts.now))}.")  # fmt: skip
    advice = ("Start or update a worker whose app has the task: its module must be imported there, or named in the "
              "setting `imports` or in `app.autodiscover_tasks`.")  # fmt: skip
    data = {"nearest": near} if near else {}
    if not any(known):
        who = "The worker that receives" if len(known) == 1 else f"None of the {len(known)} workers that receive"
        verb = "does not know" if len(known) == 1 else "knows"
        yield Reason("unknown_task", f"{who} from {facts.queue!r} {verb} the task {facts.task!r}.{hint}{then}", advice,
                     "inspect registered", since=since, until=end, data=data)  # fmt: skip
    elif not all(known):
        text = (f"{known.count(False)} of the {len(known)} workers that receive from {facts.queue!r} do not know the "
                f"task {facts.task!r}: they send it back.{then}")  # fmt: skip
        yield Reason("unknown_task", text, advice, "inspect registered", since=since, until=end, data=data)


def _no_slots(facts: Facts, receiving: Mapping[str, Circumstances | None]) -> Iterator[Reason]:
    """Yield that all slots are taken, by what, and since when."""
    told = {worker: reply for worker, reply in receiving.items() if reply is not None}
    lane = next((reply.lane for reply in told.values() if reply.lane), None) or facts.lane
    if not told or len(told) < len(receiving) or lane is None:
        return
    kind = {"plain": "plain functions", "coroutine": "coroutines"}.get(lane, lane)
    slots = sum(reply.capacity.get(lane, 0) for reply in told.values())
    who = "The worker that receives" if len(told) == 1 else f"The {len(told)} workers that receive"
    if not slots:
        text = f"{who} from {facts.queue!r} {'has' if len(told) == 1 else 'have'} no slots for {kind}."
        yield Reason("no_slots", text, "Start a worker that has.", f"worker -Q {quote(facts.queue)}")
    elif not any(reply.free.get(lane, 0) > 0 for reply in told.values()):
        running = [(worker, one) for worker, reply in told.items() for one in reply.running if one.lane == lane]
        running.sort(key=lambda pair: pair[1].started_at or 0.0)
        taken = "The one slot" if slots == 1 else f"All {slots} slots"
        are = "is" if slots == 1 else "are"
        text = f"{taken} for {kind} of the {_workers(len(told))} from {facts.queue!r} {are} taken."
        tasks = [{"id": one.id, "task": one.task, "worker": worker, "started_at": one.started_at}
                 for worker, one in running]  # fmt: skip
        yield Reason("slots_taken", text, "Wait, add children, or start another worker.",
                     "control pool-grow 1" if lane == "plain" else f"worker -Q {quote(facts.queue)}",
                     since=running[0][1].started_at if running else None, data={"tasks": tasks},
                     lines=tuple(_shown(facts, *one) for one in running[:MOST_SHOWN]))  # fmt: skip


def _workers(count: int) -> str:
    return "worker that receives" if count == 1 else f"{count} workers that receive"


def _shown(facts: Facts, worker: str, one: Told) -> str:
    return f"{one.task}[{one.id}] for {duration(max(0.0, facts.now - (one.started_at or facts.now)))} on {worker}"


# --- Not due yet --------------------------------------------------------------------------------------


def _not_due(facts: Facts) -> Iterator[Reason]:
    message, outcome = facts.view.message, facts.view.outcome
    assert message is not None
    due_at = message.due_at or facts.now
    left, id = duration(max(0.0, due_at - facts.now)), quote(facts.view.id)
    run_now = f"tasks run-now {id}"
    if message.unknown_since is not None:
        text = f"A worker sent it back, because it does not know the task: it is tried again in {left}."
        yield Reason("returned", text, until=due_at)
    elif message.requeued:
        text = (f"Its task has sent it back with Reject(requeue=True), {_times(message.requeued)}. It is tried again "
                f"in {left}.")  # fmt: skip
        yield Reason("requeued", text, "See why it does so in the worker's log.", until=due_at)
    elif message.attempt > 1:
        of = f" of at most {facts.max_attempts}" if facts.max_attempts is not None else ""
        why = ""
        if outcome is not None and outcome.state == states.RETRY and outcome.failure is not None:
            why = f" Attempt {outcome.attempt} failed: {outcome.failure.type}: {outcome.failure.message}"
        yield Reason("retrying", f"It is tried again: attempt {message.attempt}{of} is due in {left}.{why}",
                     "Run it now, if the cause is gone.", run_now, until=due_at,
                     data={"attempt": message.attempt, "of": facts.max_attempts})  # fmt: skip
    elif rate := _rate_that_delays(facts):
        yield Reason("rate_limit", f"{facts.task} is limited to {_rate(rate)} on each worker: its turn is in {left}.",
                     "Wait, start more workers, or raise the limit.",
                     f"control rate-limit {quote(facts.task)} none", until=due_at, data={"rate": rate})  # fmt: skip
    else:
        yield Reason("not_due", f"It is due in {left}.", "Run it now, if it should not wait.", run_now, until=due_at)


def _rate_that_delays(facts: Facts) -> float | None:
    """Return the rate limit that has put a message off; None if it was sent for a later time."""
    message = facts.view.message
    rates = [reply.rate for reply in facts.replies.values.values() if reply.rate is not None]
    if message is None or not rates or (message.due_at or 0.0) > facts.now + RATE_HORIZON:
        return None
    meant = None if message.countdown is None else message.sent_at + message.countdown
    return min(rates) if meant is None or (message.due_at or 0.0) > meant + SOON else None


def _rate(per_second: float) -> str:
    for seconds, unit in ((1, "s"), (60, "m")):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:.3g}/{unit}"
    return f"{per_second * 3600:.3g}/h"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


# --- Its turn -----------------------------------------------------------------------------------------


def _turn(facts: Facts, blocked: bool, stopped: bool) -> Iterator[Reason]:
    """Yield how many come before it, and about when its turn is, if its queue moves."""
    message, counts = facts.view.message, facts.counts
    assert message is not None
    if message.attempt > 1:
        of = f" of at most {facts.max_attempts}" if facts.max_attempts is not None else ""
        yield Reason("retrying", f"This is attempt {message.attempt}{of}.", "",
                     data={"attempt": message.attempt, "of": facts.max_attempts})  # fmt: skip
    ready = counts.ready if counts is not None and not counts.uncounted else None
    most = facts.before if facts.before is not None else max(PEEKED, (ready or 0) - 1)
    if most:
        exact = facts.before is not None
        count = f"{most:,}" if exact else f"at least {PEEKED:,} of the {ready:,}" if ready else f"at least {PEEKED:,}"
        when, until = "", None
        if facts.per_second and not stopped:
            until = facts.now + most / facts.per_second
            about = f"{'about' if exact else 'at most about'} {duration(most / facts.per_second)}"
            when = f" At the {_rate(facts.per_second)} of the last five minutes it starts in {about}."
        text = f"{count[0].upper()}{count[1:]} waiting {'task comes' if most == 1 else 'tasks come'} before it."
        yield Reason("behind", f"{text}{when}", "" if stopped else "Start more workers, if that is too late.",
                     None if stopped else f"worker -Q {quote(facts.queue)}", until=until,
                     data={"before": facts.before, "ready": ready, "per_second": facts.per_second})  # fmt: skip
    elif not blocked:
        yield Reason("next", "It is next, and nothing is in its way: a worker takes it within a second or two.",
                     "Ask again. If it is still here then, see the worker's log.")  # fmt: skip
