"""Why a task is not running, or what has happened to it: facts come in (`facts.py`), reasons go out. Pure.

    dead letter · held by a worker · waiting in a queue · ended · behind others in a workflow · expired · never seen

Each reason says what is so and what to do next. What holds a task up comes first, what only delays it after that.
Why a message waits is in `waiting.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from celeriac import states
from celeriac.inspector.explanation import Explanation, Reason
from celeriac.inspector.facts import Behind, Facts
from celeriac.inspector.views import Told
from celeriac.inspector.waiting import obstacles, waiting
from celeriac.model.durations import duration
from celeriac.model.message import made_at
from celeriac.model.outcome import Outcome

__all__ = ["explain"]

MOST_NAMED = 3  # tasks that one reason names


def explain(facts: Facts) -> Explanation:
    """Return why a task does not run, or what became of it."""
    view, outcome = facts.view, facts.view.outcome
    if view.place == "dead":
        return _explained(facts, "dead", "is a dead letter", [_dead(facts)])
    if view.place == "active" or any(reply.own for reply in facts.replies.values.values()):
        return _held(facts)
    if view.place is not None:
        how = "is scheduled" if view.place == "scheduled" else "is waiting"
        return _explained(facts, "waiting", f"{how} in the queue {facts.queue!r}", list(waiting(facts)))
    if outcome is not None and outcome.ready:
        return _explained(facts, "ended", f"has ended: {outcome.state}", [_ended(facts, outcome)])
    if facts.behind is not None:
        return _in_workflow(facts, facts.behind)
    if facts.timeline is not None and facts.timeline.attempts and facts.sees_messages:
        return _explained(facts, "ended", "has ended, and its outcome is not kept any more", [_in_history(facts)])
    if facts.sees_messages and not view.known:
        return _explained(facts, "unknown", "is unknown", [_unknown(facts)])
    return _unseen(facts)


def _explained(facts: Facts, status: str, what: str, reasons: list[Reason]) -> Explanation:
    view, name = facts.view, f"{facts.task}[{facts.view.id}]" if facts.task else f"The task {facts.view.id}"
    return Explanation(id=view.id, task=facts.task or None, queue=facts.queue or None, state=view.state,
                       place=view.place, status=status, summary=f"{name} {what}.", reasons=reasons,
                       unseen=list(_unseen_parts(facts)), at=facts.now)  # fmt: skip


def _unseen_parts(facts: Facts) -> Iterator[str]:
    """Say what could not be known."""
    if not facts.sees_messages:
        yield "This broker cannot find a message by its id: whether it waits, and behind which others, is not known."
    if not facts.sees_outcomes:
        yield "With rpc:// results go only to the caller: whether it has ended is not known."
    for worker in facts.replies.silent:
        yield f"The worker {worker} did not reply: what it runs, and which tasks it knows, is not known."
    for worker, error in facts.replies.errors.items():
        yield f"The worker {worker} replied with an error: {error}"


# --- Held by a worker ---------------------------------------------------------------------------------


def _held(facts: Facts) -> Explanation:
    for worker, reply in facts.replies.values.items():
        if reply.own is not None and reply.own.started_at is not None:
            return _explained(facts, "running", f"is running on {worker}", list(_running(facts, worker, reply.own)))
        if reply.own is not None:
            return _explained(facts, "waiting", f"is with the worker {worker}", [_reserved(worker)])
    holder = facts.holder
    if holder is None:
        text = "A worker has just taken or settled it, or holds it and did not reply."
        return _explained(facts, "running", "is with a worker", [Reason("held", text, "Ask again in a second.")])
    name, left = holder.worker.name, holder.expires_at - facts.now
    if left <= 0:
        reason = _lost(facts, name, -left)
        return _explained(facts, "waiting", f"was with the worker {name}, which is lost", [reason])
    if name in facts.replies.silent or name in facts.replies.errors:
        text = (f"The worker {name} holds it, and does not say whether it runs. Its lease ends in {duration(left)} "
                "unless it is renewed; then the message returns to the queue.")  # fmt: skip
        reason = Reason("holder_silent", text, "See whether the worker is alive.", f"inspect ping -d {quote(name)}",
                        until=holder.expires_at)  # fmt: skip
        return _explained(facts, "running", f"is with the worker {name}", [reason])
    text = f"The worker {name} has just taken it, or has run it and is about to settle it."
    return _explained(facts, "running", f"is with the worker {name}", [Reason("held", text, "Ask again in a second.")])


def _running(facts: Facts, worker: str, own: Told) -> Iterator[Reason]:
    started = own.started_at or facts.now
    ran = max(0.0, facts.now - started)
    for limit, kind, what in ((own.soft_time_limit, "over_soft_limit", "soft time limit"),
                              (own.time_limit, "over_limit", "time limit")):  # fmt: skip
        if limit is not None and ran > limit:
            yield Reason(kind, f"It has exceeded its {what} of {duration(limit)} by {duration(ran - limit)}.",
                         "Its code ignores the limit, or waits where it cannot be interrupted. End it.",
                         f"tasks revoke {quote(facts.view.id)} --terminate", since=started + limit)  # fmt: skip
    outcome = facts.view.outcome
    progress = f" It reports the state {outcome.state}." if outcome and outcome.state not in _USUAL else ""
    limit = own.soft_time_limit or own.time_limit
    until = f"; it has {duration(started + limit - facts.now)} left" if limit and ran < limit else ""
    pid = f", in process {own.pid}" if own.pid else ""
    yield Reason("running", f"Attempt {own.attempt} has run for {duration(ran)} on {worker}{pid}{until}.{progress}",
                 "Wait for its end.", f"result {quote(facts.view.id)} --wait", since=started,
                 until=started + limit if limit else None)  # fmt: skip


_USUAL = (states.STARTED, states.RETRY, states.PENDING)


def _reserved(worker: str) -> Reason:
    return Reason("reserved", f"The worker {worker} has received it ahead, and starts it as soon as a child is free.",
                  "See what its children run.", f"inspect active -d {quote(worker)}")  # fmt: skip


def _lost(facts: Facts, name: str, since: float) -> Reason:
    others = [worker.name for worker in facts.workers if worker.name != name]
    how = f"The worker {name} held it, and has not renewed its lease: that ended {duration(since)} ago."
    if others:
        return Reason("holder_lost", f"{how} Another worker returns the message to its queue within a second or two.",
                      "Ask again in a second.", since=facts.now - since)  # fmt: skip
    return Reason("holder_lost", f"{how} The next worker that runs returns the message to its queue.",
                  "Start a worker.", f"worker -Q {quote(facts.queue)}", since=facts.now - since)  # fmt: skip


# --- Ended --------------------------------------------------------------------------------------------


def _dead(facts: Facts) -> Reason:
    outcome, id = facts.view.outcome, quote(facts.view.id)
    why = facts.dead.reason if facts.dead is not None else ""
    if not why and outcome is not None and outcome.failure is not None:
        why = outcome.failure.message
    at = facts.dead.at if facts.dead is not None else None
    ago = f" It was set aside {duration(max(0.0, facts.now - at))} ago." if at else ""
    return Reason("dead", f"Why: {why.rstrip('.') or 'the reason is not known'}.{ago}",
                  "Remove the cause, then send it again; or delete it.",
                  f"queues dead resend {id}", since=at)  # fmt: skip


def _ended(facts: Facts, outcome: Outcome) -> Reason:
    id, ago = quote(outcome.id), f"{duration(max(0.0, facts.now - outcome.done_at))} ago"
    failure, where = outcome.failure, f" on {outcome.worker}" if outcome.worker else ""
    if outcome.cause is not None:
        return Reason("not_run", f"It was not run, because the task {outcome.cause} of its workflow did not succeed.",
                      "See why that one failed.", f"explain {quote(outcome.cause)}", since=outcome.done_at)  # fmt: skip
    if outcome.state == states.REVOKED:
        error = failure.type if failure is not None else ""
        if error == "TaskExpired":
            return Reason("expired", f"It expired before a worker could start it: it ended {ago}.",
                          "Send it again with a later `expires`, or with more workers.",
                          since=outcome.done_at)  # fmt: skip
        what = "It was terminated while it ran" if outcome.runtime else "It was revoked before it started"
        return Reason("revoked", f"{what}, {ago}.", "Send it again if it is still wanted.", since=outcome.done_at)
    if outcome.state == states.FAILURE and failure is not None:
        text = f"Attempt {outcome.attempt} failed {ago}{where}, after {duration(outcome.runtime)}: "
        command = f"tasks retry {outcome.place.workflow if outcome.place else id}"
        return Reason("failed", f"{text}{failure.type}: {failure.message}", "Remove the cause, then send it again.",
                      command, since=outcome.done_at)  # fmt: skip
    text = f"Attempt {outcome.attempt} ended {ago}{where}, after {duration(outcome.runtime)}."
    return Reason("ended", text, "See its result.", f"tasks show {id}", since=outcome.done_at)


def _in_history(facts: Facts) -> Reason:
    attempts = facts.timeline.attempts if facts.timeline is not None else []
    last = attempts[-1]
    what = f": {last.error}: {last.message}" if last.error else ""
    text = (f"Attempt {last.attempt} ended as {last.state} {duration(max(0.0, facts.now - last.done_at))} ago"
            f"{f' on {last.worker}' if last.worker else ''}{what}. The history has kept it; its result is gone"
            f"{_kept_for(facts)}.")  # fmt: skip
    command = f"tasks retry {quote(facts.view.id)}" if last.kept is not None else f"tasks show {quote(facts.view.id)}"
    return Reason("forgotten", text, "Send it again, if it is still wanted." if last.kept is not None
                  else "See its attempts.", command, since=last.done_at)  # fmt: skip


def _kept_for(facts: Facts) -> str:
    return "" if facts.result_expires is None else f": results are kept for {duration(facts.result_expires)}"


# --- Never seen ---------------------------------------------------------------------------------------


def _in_workflow(facts: Facts, behind: Behind) -> Explanation:
    names = [f"{one.task}[{one.id}], {one.state}" for one in behind.waits_for[:MOST_NAMED]]
    more = len(behind.waits_for) - len(names)
    listed = "; ".join(names) + (f"; and {more:,} more" if more > 0 else "")
    progress = f"{behind.ended:,} of the {behind.total:,} tasks of the workflow {behind.workflow} have ended"
    data = {"workflow": behind.workflow, "ended": behind.ended, "total": behind.total}
    if not behind.waits_for:
        what = "has ended" if behind.step is None else "is sent next"
        text = f"{progress}." if behind.step is None else f"{progress}, and all that it waits for: a worker sends it."
        reason = Reason("workflow", text, "See the workflow.", f"tasks --workflow {quote(behind.workflow)}", data=data)
        return _explained(_named(facts, behind), "ended" if behind.step is None else "waiting", what, [reason])
    text = f"It waits for {listed}. {progress}."
    first = quote(behind.waits_for[0].id)
    reason = Reason("workflow", text, "See why that one has not ended.", f"explain {first}", data=data)
    what = "is a workflow that has not ended" if behind.step is None else "is not sent yet: others come first"
    return _explained(_named(facts, behind), "waiting", what, [reason])


def _named(facts: Facts, behind: Behind) -> Facts:
    from_tree = behind.step.task if behind.step is not None else ""
    return type(facts)(**{name: getattr(facts, name) for name in facts.__struct_fields__} | {"task": from_tree})


def _unknown(facts: Facts) -> Reason:
    id, made = facts.view.id, made_at(facts.view.id)
    if facts.similar is not None:
        return Reason("mistyped", f"Nothing is known of it. There is a task {facts.similar}.", "Ask for that one.",
                      f"explain {quote(facts.similar)}")  # fmt: skip
    maybe = "the id is mistyped, or the task was sent to another broker"
    if made is None:
        text = f"Nothing is known of it, and Celeriac has not made this id: {maybe}, or its result is gone"
        return Reason("never_seen", f"{text}{_kept_for(facts)}.", "See which tasks there are.", "tasks")
    age = facts.now - made
    expires = facts.result_expires
    if expires is not None and age > expires:
        text = (f"Its id was made {duration(age)} ago, and results are kept for {duration(expires)}: it has ended, "
                "and its result has expired.")  # fmt: skip
        return Reason("forgotten", text, "To keep results for longer, set `result_expires`.")
    text = (f"Nothing is known of it. Its id was made {duration(max(0.0, age))} ago. It has ended without a result "
            "(`ignore_result`), or was deleted or forgotten; or it was never sent; or it is part of a workflow, and "
            "others come first.")  # fmt: skip
    return Reason("never_seen", text, "If it is part of a workflow, name that.",
                  f"explain {quote(id)} --workflow WORKFLOW")  # fmt: skip


def _unseen(facts: Facts) -> Explanation:
    """Explain a task whose message the broker cannot find: what is in the way of any message of its queue."""
    found = list(obstacles(facts)) if facts.queue else []
    outcome = facts.view.outcome
    if outcome is not None and outcome.state == states.RETRY:
        failure = outcome.failure
        why = f": {failure.type}: {failure.message}" if failure is not None else ""
        at = outcome.done_at + (outcome.retry_delay or 0.0)
        found.append(Reason("retrying", f"Attempt {outcome.attempt} failed{why}. The next one waits for its time.",
                            "Wait for it.", until=at))  # fmt: skip
    if not found and not facts.queue:
        found = [Reason("not_seen", "No worker runs it, and no outcome of it is stored.",
                        "Name its task and its queue, to see what is in the way of such tasks.",
                        f"explain {quote(facts.view.id)} --task NAME --queue QUEUE")]  # fmt: skip
    elif not found:
        found = [Reason("not_seen", f"No worker runs it now, and nothing is in the way of {facts.task or 'tasks'} in "
                        f"the queue {facts.queue!r}.", "If it was sent, it waits for its turn.", "queues")]  # fmt: skip
    return _explained(facts, "unknown", "is not seen", found)
