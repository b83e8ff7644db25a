"""What an entry sends at each tick: messages, and the tree of a workflow, made once and filled in for each tick.

A template is made where the entry is declared, by the code that also sends calls and workflows. Its ids are numbered
placeholders, so that templates that send the same are equal. At a tick each is replaced by an id, which is a function
of the entry's salt, the tick and the number of the placeholder: every scheduler sends the same messages with the same
ids, also after an edit of what is sent, and needs neither the tasks nor the app's code. All ids and placeholders have
the same length, so they are replaced in the encoded bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from celeriac.canvas.composite import Composite
from celeriac.canvas.planner import Planner
from celeriac.canvas.tree import Node, Step, Tree, decode_tree
from celeriac.errors import UnknownOption, WorkflowError
from celeriac.model.codec import Codec
from celeriac.model.gate import Name
from celeriac.model.message import Link, Message, decode, encode
from celeriac.ports.workflows import Plan
from celeriac.schedules.ticks import tick_id
from celeriac.tasks.protocols import App
from celeriac.tasks.signature import Signature, listed

__all__ = ["Filled", "Template", "template_of"]

ID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # each id that Celeriac makes, and each placeholder
PLACEHOLDER = "5d0c3a71-9b84-4e6f-a2d7-{:012x}"  # the first part was drawn at random: no arguments contain it
CHOSEN = "A schedule sends a task again and again, so that it cannot have the option task_id: leave it out."
ROUNDED = 3  # digits of a second
DATED = "A schedule sends a task again and again, so that the option {} cannot be an instant: use {}."


class Template(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is sent at each tick."""

    task: Name  # the first task, for people
    firsts: Annotated[list[bytes], Meta(min_length=1)]  # messages; their instants are seconds after the tick
    ids: Annotated[int, Meta(ge=1)]  # how many it has
    ends: Annotated[list[int], Meta(min_length=1)]  # which of the ids are of tasks whose ends are the end of all
    tree: bytes | None = None  # of a workflow
    workflow: Annotated[int, Meta(ge=0)] = 0  # which of the ids is the workflow's
    left: int = 0  # as in `Plan`
    missing: dict[int, int] = {}

    def __post_init__(self) -> None:
        if max((*self.ends, self.workflow)) >= self.ids or min(self.ends) < 0:
            raise ValueError("the ids of its ends are missing")
        if self.ids > sum(map(len, self.firsts)) + len(self.tree or b""):
            raise ValueError("it does not contain so many ids")

    @property
    def sends_workflow(self) -> bool:
        """Whether it sends a workflow, and not a single task."""
        return self.tree is not None

    def messages(self) -> list[Message]:
        """Return the messages that are sent, with placeholders as ids. Raises `Unreadable`."""
        return list(map(decode, self.firsts))

    def fill(self, salt: bytes, tick: int, now: float, delay: float, codec: Codec) -> Filled:
        """Return what is sent at a tick (milliseconds since the epoch), `delay` seconds late. Raises `Unreadable`."""
        new = [self._id(number, salt, tick) for number in range(self.ids)]
        ids, at = self._by_placeholder(new), tick / 1000 + delay
        messages = [_dated(decode(_filled(first, ids)), at, now) for first in self.firsts]
        plan: Plan | None = None
        if self.tree is not None:
            workflow = new[self.workflow]
            tree = codec.seal("tree", _filled(self.tree, ids), workflow)
            plan = Plan(id=workflow, tree=tree, left=self.left, missing=self.missing)
        return Filled(messages, plan, [new[end] for end in self.ends])

    def with_outcomes(self) -> Template:
        """Return the template without `ignore_result`. The last tasks of a workflow store their outcomes anyway."""
        if self.sends_workflow:
            return self
        return replace(self, firsts=[encode(replace(message, ignore_result=False)) for message in self.messages()])

    def ends_at(self, salt: bytes, tick: int) -> list[str]:
        """Return the ids of the tasks whose ends are the end of what was sent at a tick."""
        return [self._id(end, salt, tick) for end in self.ends]

    def steps_at(self, salt: bytes, tick: int) -> list[str]:
        """Return the ids of all tasks of what was sent at a tick, without those of callbacks. Raises `Unreadable`."""
        if self.tree is None:
            return self.ends_at(salt, tick)
        ids = self._by_placeholder([self._id(number, salt, tick) for number in range(self.ids)])
        return [step.id for _, step in decode_tree(_filled(self.tree, ids)).steps()]

    def _by_placeholder(self, ids: Sequence[str]) -> dict[bytes, bytes]:
        return _by_placeholder(map(PLACEHOLDER.format, range(self.ids)), ids)

    def _id(self, number: int, salt: bytes, tick: int) -> str:
        return tick_id(salt + number.to_bytes(4), tick)


class Filled(msgspec.Struct, frozen=True):
    """What is sent at one tick."""

    messages: list[Message]
    plan: Plan | None
    ends: list[str]


def _by_placeholder(old: Iterable[str], new: Iterable[str]) -> dict[bytes, bytes]:
    return {id.encode(): other.encode() for id, other in zip(old, new, strict=True)}


def _filled(data: bytes, ids: Mapping[bytes, bytes]) -> bytes:
    """Replace ids, all in one pass: a workflow of a thousand tasks has a thousand."""
    if len(ids) == 1:
        return data.replace(*next(iter(ids.items())))
    return ID.sub(lambda found: ids.get(found[0], found[0]), data)


def template_of(app: App, what: Any) -> Template:
    """Return the template of a signature or a workflow. Raises the errors of a call with the same arguments."""
    if isinstance(what, Signature) and not what.leads_on():
        _check_options(what)
        what._checked((), None)
        message = _undated(what.message())
        ids = list(dict.fromkeys(_ids(message)))
        return Template(message.task, [_filled(encode(message), _placeholders(ids))], len(ids), [0])
    if not isinstance(what, Signature | Composite):
        raise WorkflowError(f"A schedule sends a task's signature or a workflow, not {what!r}: task.s(…).")
    planned = Planner(app).plan(what)
    if planned.chosen:
        raise UnknownOption(CHOSEN)
    tree = _undated_tree(planned.tree)
    ids = list(dict.fromkeys(_tree_ids(tree)))
    placeholders = _placeholders(ids)
    leaves = [tree.step(number).id for number in tree.leaves(tree.end)]
    plan = planned._replace(tree=tree).plan(Codec())
    return Template(
        task=next(step.task for _, step in tree.steps()),
        firsts=[_filled(encode(_undated(message)), placeholders) for message in planned.starts],
        ids=len(ids), ends=[ids.index(id) for id in leaves], tree=_filled(plan.tree, placeholders),
        workflow=ids.index(tree.id), left=plan.left, missing=dict(plan.missing),
    )  # fmt: skip


def _check_options(signature: Signature[Any]) -> None:
    if "task_id" in signature.options:
        raise UnknownOption(CHOSEN)
    if "eta" in signature.options:
        raise UnknownOption(DATED.format("eta", "countdown, or another schedule"))
    if isinstance(signature.options.get("expires"), datetime):
        raise UnknownOption(DATED.format("expires", "seconds"))
    for name in ("link", "link_error"):
        for link in listed(signature.options.get(name)):
            if isinstance(link, Signature):
                _check_options(link)


def _placeholders(ids: Sequence[str]) -> dict[bytes, bytes]:
    """Return a placeholder for each id, by its position."""
    return _by_placeholder(ids, map(PLACEHOLDER.format, range(len(ids))))


def _undated(message: Message) -> Message:
    """Return a message as it is stored: what is an instant in a call is seconds after the tick here."""
    plain = _timeless(message)
    return replace(plain, due_at=_seconds(message, message.due_at), expires_at=_seconds(message, message.expires_at),
                   reply_to="")  # fmt: skip


def _seconds(message: Message, instant: float | None) -> float | None:
    """Return how long after a message was made an instant is; rounded, so that it does not depend on the time."""
    return None if instant is None else max(0.0, round(instant - message.sent_at, ROUNDED))


def _dated(message: Message, at: float, now: float) -> Message:
    """Return a message that is sent now, `at` which its instants are counted from."""
    due_at = at + (message.due_at or 0.0)
    countdown = due_at - now if due_at > now else None  # less than the call's, if the tick is late
    return replace(message, sent_at=now, due_at=None if countdown is None else due_at, countdown=countdown,
                   expires_at=None if message.expires_at is None else at + message.expires_at)  # fmt: skip


def _undated_tree(tree: Tree) -> Tree:
    """Return a tree without instants. The delays of its steps count from when they are sent, and stay."""
    nodes: list[Node] = []
    for node in tree.nodes:
        if isinstance(node, Step):
            message = replace(_timeless(node.message), id="", task="")
            nodes.append(replace(
                node, raw=msgspec.Raw(encode(message)),
                countdown=None if node.countdown is None else round(node.countdown, ROUNDED),
                expires=None if node.expires is None else round(node.expires, ROUNDED),
            ))  # fmt: skip
        else:
            nodes.append(replace(node, link_error=[_timeless_link(link) for link in node.link_error]))
    return Tree(tree.id, tree.root, nodes, tree.end)


def _timeless(message: Message) -> Message:
    """Return a message without instants. Durations of what it links to count from when that is sent, and stay."""
    return replace(
        message, sent_at=0.0, due_at=None, expires_at=None, link=[_timeless_link(link) for link in message.link],
        link_error=[_timeless_link(link) for link in message.link_error],
    )  # fmt: skip


def _timeless_link(link: Link) -> Link:
    expires = None if link.expires is None else round(link.expires, ROUNDED)
    return replace(link, message=_timeless(link.message), expires=expires)


def _ids(message: Message) -> Iterator[str]:
    """Yield the ids of a message, and of those that it links to."""
    yield message.id
    for link in (*message.link, *message.link_error):
        yield from _ids(link.message)


def _tree_ids(tree: Tree) -> Iterator[str]:
    yield tree.id
    yield tree.root
    for node in tree.nodes:
        yield node.id
        links = node.message.link_error if isinstance(node, Step) else node.link_error
        for link in (*links, *(node.message.link if isinstance(node, Step) else ())):
            yield from _ids(link.message)


