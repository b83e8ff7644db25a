"""From signatures to a tree: `Planner` lays out a workflow, and raises its errors before anything is sent.

`workflows.py` calls it when a workflow is sent, run, or replaces a task. It returns a `Planned`: the tree, and the
messages of the steps that start at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from celeriac.canvas.advance import advance
from celeriac.canvas.tree import Join, Node, Step, Tree
from celeriac.errors import UnknownOption, WorkflowError
from celeriac.model.codec import Codec
from celeriac.model.message import Link, Message, encode, new_id
from celeriac.ports.workflows import Plan
from celeriac.tasks.builtin_names import GATHER
from celeriac.tasks.message_template import as_link, check_callback, check_same_app, check_takes_result
from celeriac.tasks.protocols import App
from celeriac.tasks.request import current
from celeriac.tasks.signature import Signature, listed
from celeriac.tasks.tracing import LINKED, LINKED_FROM, Sending, without_context

__all__ = ["FIRST_ONLY", "Given", "Planned", "Planner", "as_replacement", "check_unique"]


FIRST_ONLY = ("countdown", "eta")
"""Options of a call that apply only to the tasks that start at once."""


class Planned(NamedTuple):
    """A workflow, ready to be sent."""

    tree: Tree
    starts: list[Message]
    missing: dict[int, int]  # by join: how many of its members have not ended
    chosen: list[str]  # the ids that the caller chose

    @property
    def has_steps(self) -> bool:
        """Whether there is anything to run."""
        return any(isinstance(node, Step) for node in self.tree.nodes)

    def plan(self, codec: Codec) -> Plan:
        """Return the workflow as a backend with this codec stores it."""
        nodes = self.tree.nodes
        return Plan(
            id=self.tree.id,
            tree=codec.seal("tree", self.tree.encode(), self.tree.id),
            left=sum(isinstance(node, Step) and node.foreign is None for node in nodes),
            missing=self.missing,
        )


class Given(NamedTuple):
    """What a part of a workflow receives from the call and from the workflow around it."""

    args: Sequence[Any] = ()  # for the tasks that start at once
    kwargs: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}  # for all its tasks
    source: int = -1  # the node whose result it receives
    group: int = -1  # the innermost group around it
    id: str | None = None  # the id that its result is to have


class Planner:
    """Lays out one workflow."""

    def __init__(self, app: App, check: bool = True, sending: Sending | None = None) -> None:
        self._app = app
        self._checks = check  # whether arguments are checked
        self._is_traced = sending is not None
        self._nodes: list[Node | None] = []
        self._messages: dict[int, Message] = {}
        self._steps: dict[int, dict[str, Any]] = {}  # the other fields of steps
        self._joins: dict[int, list[Link]] = {}  # error callbacks of groups
        self._chosen: dict[int, str] = {}  # ids that the caller chose
        self._empty: set[int] = set()  # joins that end when the workflow is sent
        request = current.get()
        self._headers = without_context(request.headers) if request is not None else {}
        if sending is not None:
            self._headers |= sending.carrier
        self._root = request.root_id if request is not None else None

    def plan(self, part: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
             options: Mapping[str, Any] | None = None, stands_for: Message | None = None) -> Planned:  # fmt: skip
        """Lay out a whole workflow, and raise its errors.

        With `stands_for`, the last step takes the id, the links and the place of that message, which it replaces. If
        the workflow ends in a group, or more follows its last step, a built-in task that passes the result on does.
        """
        options = dict(options or {})
        if self._headers:
            options["headers"] = {**self._headers, **options.get("headers", {})}
        id = options.pop("task_id", None)
        end = self.add(part, Given(args, kwargs or {}, options, id=id))
        if stands_for is not None:
            # A step with the place of another workflow has its followers there.
            if end in self._joins or (stands_for.place is not None and self._is_followed(end)):
                end = self.add(Signature(self._app, GATHER), Given(source=end, options=_headers(options)))
            self._take_over(end, stands_for)
        return self._finish(end)

    # --- Parts ----------------------------------------------------------------------------------------

    def add(self, part: Any, given: Given) -> int:
        """Lay out a part; return the node whose end is its end."""
        if isinstance(part, Signature):
            return self._signature(part, given)
        end: int = part.lay_out(self, given)
        return end

    def _signature(self, signature: Signature[Any], given: Given) -> int:
        check_same_app(self._app, signature)
        starts = given.source < 0
        args, kwargs = signature.merged(given.args, given.kwargs) if starts else (signature.args, signature.kwargs)
        options = {**signature.options, **given.options}
        if "headers" in signature.options and "headers" in given.options:
            options["headers"] = {**signature.options["headers"], **given.options["headers"]}
        if not starts and given.source not in self._empty:
            # The call's countdown and eta apply to the start; a signature's own count from when it is sent.
            options = {name: options[name] for name in options if name not in FIRST_ONLY}
            options |= {name: signature.options[name] for name in FIRST_ONLY if name in signature.options}
        links, errors = listed(options.pop("link", None)), listed(options.get("link_error"))
        if given.id is not None:
            options["task_id"] = given.id
        _check_error_callbacks(errors)
        self._check(signature, args, kwargs, starts)
        group = self._nodes[given.group] if given.group >= 0 else None
        message = self._app.message_template(signature.task).message(
            args, kwargs, options, group_id=group.id if group is not None else None
        )
        fields: dict[str, Any] = {"source": given.source, "group": given.group, "immutable": signature.immutable}
        if not starts:
            if not signature.immutable:
                check_takes_result(message)
            if message.due_at is not None and "eta" not in options:
                fields["countdown"] = message.due_at - message.sent_at
                message = replace(message, due_at=None)
            if message.expires_at is not None and not isinstance(options.get("expires"), datetime):
                fields["expires"] = message.expires_at - message.sent_at
                message = replace(message, expires_at=None)
        number = len(self._nodes)
        self._nodes.append(None)
        self._messages[number] = message
        self._steps[number] = fields
        if "task_id" in options:
            self._chosen[number] = message.id
        for link in links:
            self.add(self._signature_of(link), Given(source=number, group=given.group, options=_headers(given.options)))
        return number

    def add_group(self, parts: Sequence[Any], given: Given, id: str | None = None) -> int:
        """Lay out a group; return its join."""
        number = len(self._nodes)
        join = Join(given.id or id or new_id(), [], given.source, group=given.group)
        self._nodes.append(join)
        self._joins[number] = []
        inside = given._replace(group=number, id=None)
        if self._is_traced and len(parts) > LINKED_FROM:
            options = {**given.options, "headers": {**given.options.get("headers", {}), LINKED: "1"}}
            inside = inside._replace(options=options)
        for part in parts:
            member = self.add(part, inside)
            join.members.append(member)
            self._set_join(member, number)
        if self._empty.issuperset(join.members or ([given.source] if given.source >= 0 else ())):
            self._empty.add(number)
        return number

    def add_links(self, end: int, links: Sequence[Any], errors: Sequence[Any], given: Given) -> None:
        """Lay out the links and error callbacks of the end of a part."""
        _check_error_callbacks(errors)
        made = [self._link(entry) for entry in errors]
        if made and end in self._joins:
            self._joins[end] += made
        elif made:
            message = self._messages[end]
            self._messages[end] = replace(message, link_error=[*message.link_error, *made])
        for link in links:
            self.add(self._signature_of(link), Given(source=end, group=given.group, options=_headers(given.options)))

    # --- Internals ------------------------------------------------------------------------------------

    def _check(self, signature: Signature[Any], args: Sequence[Any], kwargs: Mapping[str, Any], starts: bool) -> None:
        task = self._app.tasks.get(signature.task)
        if self._checks and task is not None and task.checks_arguments:
            given = () if starts or signature.immutable else (None,)
            task.arguments.check((*given, *args), dict(kwargs))

    def _set_join(self, member: int, join: int) -> None:
        node = self._nodes[member]
        if isinstance(node, Join):
            self._nodes[member] = msgspec.structs.replace(node, join=join)
        else:
            self._steps[member]["join"] = join

    def _signature_of(self, entry: Any) -> Any:
        return self._app.signature(entry) if isinstance(entry, Mapping) else entry

    def _link(self, entry: Any) -> Link:
        signature = self._signature_of(entry)
        check_callback(self._app, "link_error", signature)
        options = {"headers": self._headers, **signature.options} if self._headers else {}
        return as_link(signature, signature.message(**options))

    def _is_followed(self, number: int) -> bool:
        joins = [node for node in self._nodes if isinstance(node, Join)]
        return number in [node.source for node in joins] + [step["source"] for step in self._steps.values()]

    def _take_over(self, end: int, message: Message) -> None:
        """Give the last step the id, the links and the place of a message that is replaced."""
        self._messages[end] = as_replacement(self._messages[end], message)
        self._chosen.pop(end, None)
        if message.place is not None:
            self._steps[end]["foreign"] = message.place

    def _finish(self, end: int) -> Planned:
        chosen = list(self._chosen.values())
        if chosen:
            check_unique([message.id for message in self._messages.values()])
        id = new_id()
        starting = [number for number, fields in self._steps.items() if fields["source"] < 0]
        root = self._root or (self._messages[starting[0]].id if len(starting) == 1 else id)
        nodes: list[Node] = []
        for number, node in enumerate(self._nodes):
            if isinstance(node, Join):
                errors = self._joins[number]
                nodes.append(msgspec.structs.replace(node, link_error=errors) if errors else node)
                continue
            message = self._messages[number]
            raw = msgspec.Raw(encode(replace(message, id="", task="", root_id=None)))
            nodes.append(Step(message.id, message.task, raw, **self._steps[number]))
        tree = Tree(id, root, nodes, end)
        starts = [
            replace(message, place=tree.place(number), root_id=root if message.id != root else None)
            for number, message in ((number, self._messages[number]) for number in starting)
        ]
        missing = {number: len(node.members) for number, node in enumerate(nodes) if isinstance(node, Join)}
        starts += _end_empty(tree, missing, self._app.clock.now())
        return Planned(tree, starts, missing, chosen)


def check_unique(ids: Sequence[str]) -> None:
    """Raise `WorkflowError` if an id occurs twice."""
    for id, count in Counter(ids).items():
        if count > 1:
            raise WorkflowError(f"{count} tasks of the workflow have the id {id!r}, so only one of them would run. "
                                "Give each its own `task_id`, or none.")  # fmt: skip


def as_replacement(message: Message, old: Message) -> Message:
    """Return a message with the id, the links and the place of the message that it replaces."""
    return replace(message, id=old.id, group_id=old.group_id, parent_id=old.parent_id, root_id=old.root_id,
                   place=old.place, link=[*message.link, *old.link],
                   link_error=[*message.link_error, *old.link_error], ignore_result=old.ignore_result)  # fmt: skip


def _end_empty(tree: Tree, missing: dict[int, int], now: float) -> list[Message]:
    """End the empty groups that wait for no other node: return the messages that follow, and count down the joins."""
    messages: list[Message] = []
    ended = [number for number, count in missing.items() if not count and tree.nodes[number].source < 0]
    for number in ended:
        done = advance(tree, number, {}, now)
        messages += done.messages
        for join in done.joins:
            missing[join] -= 1
            if not missing[join]:
                ended.append(join)  # this loop reaches it
    return messages


def _headers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call that apply to its links too."""
    return {"headers": options["headers"]} if "headers" in options else {}


def _check_error_callbacks(links: Sequence[Any]) -> None:
    for link in links:
        if not isinstance(link, Signature | Mapping) or (isinstance(link, Mapping) and "kind" in link):
            raise UnknownOption(f"link_error must be signatures of tasks (task.s(...)), not {link!r}.")
