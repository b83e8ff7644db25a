"""The consequences of the end of a node, as pure functions over the tree.

    follow(tree, node, end) -> messages to publish, outcomes of steps that are not run, joins to count down

The worker calls this when a task of a workflow has ended (`worker/decide.py`, which settles the consequences in the
same step as the task) and for pending nodes, such as joins that have ended (`worker/advancer.py`). `eager.py` calls it
where there is no worker. Nothing here uses a clock, a broker or a backend.

A node ends in one of three ways, each of which reaches all nodes after it:

    well        steps that wait for it are sent, with its result
    badly       steps that wait for it are not run: they end in its state, and their outcomes name the task that failed
    ignored     like badly, in the state IGNORED and without error callbacks
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from celeriac import states
from celeriac.canvas.links import callbacks
from celeriac.canvas.tree import Join, Step, Tree
from celeriac.errors import ResultLost
from celeriac.model.failure import Failure
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import dumps, prepend
from celeriac.ports.workflows import Advance, PendingNode

__all__ = ["End", "advance", "end_of", "follow", "send", "wanted"]

CAUSE_BYTES = 1_000  # of an exception's message and arguments, which each step that is not run repeats


class End(msgspec.Struct, frozen=True, gc=False):
    """How a node has ended."""

    value: bytes = b"null"  # its result, encoded
    cause: Outcome | None = None  # the outcome of the task that did not succeed; None if it ended well
    last: str | None = None  # the id of the task that ended last, and with it the node; None in an empty group


def wanted(tree: Tree, number: int) -> list[str]:
    """Return the ids of the tasks whose outcomes `advance` needs."""
    return [tree.step(leaf).id for leaf in tree.leaves(number)]


def advance(tree: Tree, number: int, outcomes: Mapping[str, Outcome], now: float) -> Advance:
    """Return the consequences of the end of a node, given the outcomes of the tasks that `wanted` names."""
    return follow(tree, number, end_of(tree, number, outcomes), now)


def end_of(tree: Tree, number: int, outcomes: Mapping[str, Outcome]) -> End:
    """Return how a node has ended. A join ends as its first member that has not ended well does."""
    latest, last = -1.0, None
    for leaf in tree.leaves(number):
        id = tree.step(leaf).id
        done_at = outcomes[id].done_at if id in outcomes else 0.0
        if done_at >= latest:
            latest, last = done_at, id
    return replace(_end_of(tree, number, outcomes), last=last)


def _end_of(tree: Tree, number: int, outcomes: Mapping[str, Outcome]) -> End:
    node = tree.nodes[number]
    if isinstance(node, Step):
        outcome = outcomes.get(node.id)
        if outcome is None or not outcome.ready:
            outcome = _lost_outcome(tree, node)
        return End(outcome.encoded_value() or b"null") if outcome.state == states.SUCCESS else End(cause=outcome)
    if not node.members and node.source >= 0:
        before = _end_of(tree, node.source, outcomes)
        return before if before.cause is not None else End(b"[]")
    ends = [_end_of(tree, member, outcomes) for member in node.members]
    causes = [end.cause for end in ends if end.cause is not None]
    if not causes:
        return End(b"[" + b",".join([end.value for end in ends]) + b"]")
    # A failure takes precedence over an ignored member.
    return End(cause=next((cause for cause in causes if cause.state != states.IGNORED), causes[0]))


def follow(tree: Tree, number: int, end: End, now: float) -> Advance:
    """Return the consequences of the end of a node.

    If the node is a step, the settlement of its outcome has counted its join and sent its error callbacks already, so
    they are not returned. For all other nodes that end with it, they are.
    """
    messages: list[Message] = []
    outcomes: list[Outcome] = []
    joins: list[int] = []
    settled = number if isinstance(tree.nodes[number], Step) else -1
    ended = [(number, end)]
    while ended:
        current, end = ended.pop()
        node = tree.nodes[current]
        if isinstance(node, Step):
            end = replace(end, last=node.id)
        if current != settled:
            if node.join >= 0:
                joins.append(node.join)
            if end.cause is not None and ((isinstance(node, Join) and node.link_error) or isinstance(node, Step)):
                links = node.link_error if isinstance(node, Join) else node.message.link_error
                messages += callbacks(links, end.cause, now)
        for follower in tree.followers.get(current, ()):
            following = tree.nodes[follower]
            if isinstance(following, Join):
                ended.append((follower, end if end.cause is not None else replace(end, value=b"[]")))
            elif end.cause is None:
                messages.append(send(tree, follower, end, now))
            else:
                outcomes.append(_unrun_outcome(tree, follower, end.cause, end.last, now))
                ended.append((follower, end))
    return Advance(pending=PendingNode(tree.id, number), messages=messages, outcomes=outcomes, joins=joins)


def send(tree: Tree, number: int, before: End | None, now: float) -> Message:
    """Return the message of a step, with the encoded result of its source inserted, if it has one."""
    step = tree.step(number)
    message = step.message
    fields: dict[str, Any] = {"sent_at": now, "place": tree.place(number)}
    if step.id != tree.root:
        fields["root_id"] = tree.root
    if before is not None and not step.immutable:
        fields["body"] = prepend(before.value, message.body)
    if before is not None and before.last is not None:
        fields["parent_id"] = before.last
    if step.countdown is not None:
        fields["due_at"] = now + step.countdown
    if step.expires is not None:
        fields["expires_at"] = now + step.expires
    return replace(message, **fields)


def _unrun_outcome(tree: Tree, number: int, cause: Outcome, parent: str | None, now: float) -> Outcome:
    """Return the outcome of a step that is not run, because a node before it has not ended well."""
    step = tree.step(number)
    message = step.message
    failure = cause.failure.shortened(CAUSE_BYTES) if cause.failure is not None else None
    return Outcome(id=step.id, task=step.task, state=cause.state, attempt=0, failure=failure, done_at=now,
                   started_at=now, group_id=message.group_id, parent_id=parent or message.parent_id, root_id=tree.root,
                   reply_to=message.reply_to, place=tree.place(number), cause=cause.cause or cause.id)  # fmt: skip


def _lost_outcome(tree: Tree, step: Step) -> Outcome:
    error = ResultLost(
        f"The result of {step.task}[{step.id}] has expired or was forgotten before its workflow {tree.id} "
        "needed it. Raise `result_expires` above the duration of the workflow."
    )
    failure = Failure(type(error).__module__, type(error).__qualname__, str(error), dumps(list(error.args)))
    return Outcome(id=step.id, task=step.task, state=states.FAILURE, failure=failure)
