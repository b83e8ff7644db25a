"""What a workflow should give: random trees, their signatures, and a plain recursive interpreter of them.

The interpreter knows nothing of messages, joins or brokers. It is the page that the whole canvas is held against.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st

from celeriac import Celeriac, chain, chord, current_request, group


class Node(NamedTuple):
    """A task, or parts tied together. Labels tell tasks and callbacks apart."""

    kind: str  # task, chain, group, chord (its last part is the body)
    parts: tuple[Node, ...] = ()
    label: int = 0
    way: str = "returns"  # one of WAYS
    callback: int | None = None  # the label of what is linked: called with the result, once
    errback: int | None = None  # the label of what is called once when it fails

    def walk(self) -> Iterator[Node]:
        """Yield it and all that is in it."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def depth(self) -> int:
        """Return how deep it is nested: 0 for a task alone."""
        return 1 + max((part.depth() for part in self.parts), default=0) if self.kind != "task" else 0


class Bad(NamedTuple):
    """What has failed, by its label."""

    label: int


class Told(NamedTuple):
    """What has become of a tree: its value, and the calls of its callbacks, error callbacks and tasks."""

    value: Any
    calls: Counter[tuple[str, int, Any]]


def fold(value: Any, label: int) -> int:
    """Return what a task returns: a number that tells whatever was different before."""
    return zlib.crc32(repr(value).encode()) ^ label


def is_deaf(label: int) -> bool:
    """Say whether a callback or an error callback is linked as immutable, and told nothing: one in four."""
    return label % 4 == 0


# --- The interpreter ----------------------------------------------------------------------------------


def interpret(node: Node, given: Any) -> Told:
    calls: Counter[tuple[str, int, Any]] = Counter()
    return Told(_interpret(node, given, calls), calls)


def _interpret(node: Node, given: Any, calls: Counter[tuple[str, int, Any]]) -> Any:
    if isinstance(given, Bad):
        value: Any = given
        for part in node.parts:
            _interpret(part, given, calls)
    elif node.kind == "task":
        value = _task(node, given, calls)
    elif node.kind == "group":
        value = _group(node.parts, given, calls)
    elif node.kind == "chord":
        value = _interpret(node.parts[-1], _group(node.parts[:-1], given, calls), calls)
    else:
        value = given
        for part in node.parts:
            value = _interpret(part, value, calls)
    if isinstance(value, Bad) and node.errback is not None:
        calls["errback", node.errback, "nothing" if is_deaf(node.errback) else value.label] += 1
    if not isinstance(value, Bad) and node.callback is not None:
        calls["callback", node.callback, repr("nothing" if is_deaf(node.callback) else value)] += 1
    return value


def _task(node: Node, given: Any, calls: Counter[tuple[str, int, Any]]) -> Any:
    calls["task", node.label, None] += 1
    if node.way == "fails":
        return Bad(node.label)
    return fold("nothing" if node.way == "immutable" else given, node.label)


def _group(parts: tuple[Node, ...], given: Any, calls: Counter[tuple[str, int, Any]]) -> Any:
    values = [_interpret(part, given, calls) for part in parts]
    return next((value for value in values if isinstance(value, Bad)), values)


# --- Random trees -------------------------------------------------------------------------------------

WAYS = ["returns"] * 13 + ["fails"] * 2 + ["retries"] * 2 + ["immutable"] * 3
"""How tasks end, each as often as it stands here."""

COMPOSITES = ("chain", "group", "chord")
DEEPEST = 5
BYTES = 400  # of which a tree is made; where they end, it ends


def trees() -> st.SearchStrategy[Node]:
    """Trees of chains, groups and chords, nested up to five deep.

    Hypothesis draws one string of bytes, and not each node: that takes a tenth of the time. It makes a failure simpler
    by zeros, of which each is a task that returns.
    """
    return st.binary(min_size=BYTES, max_size=BYTES).map(lambda data: _Growth(data).tree(DEEPEST))


class _Growth:
    """Makes a tree of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._read = 0

    def tree(self, depth: int) -> Node:
        kinds: tuple[str, ...] = ("task", *COMPOSITES, "task") if depth else ("task",)
        if depth == DEEPEST:
            kinds = ("task", *COMPOSITES * 2)
        kind = kinds[self._below(len(kinds))]
        if kind == "task":
            return Node("task", (), self._label(), WAYS[self._below(len(WAYS))], self._maybe(), self._maybe())
        parts = [self.tree(depth - 1) for _ in range(self._below(5) if kind == "group" else 1 + self._below(4))]
        return Node(kind, tuple(parts), callback=self._maybe(), errback=self._maybe())

    def _below(self, number: int) -> int:
        """Return a number below this one."""
        self._read += 1
        return self._data[self._read - 1] % number if self._read <= len(self._data) else 0

    def _label(self) -> int:
        """Return a label that no other node has."""
        return self._below(256) + (self._read << 8)

    def _maybe(self) -> int | None:
        return self._label() if self._below(5) == 4 else None


def random_tree(chance: random.Random, depth: int = 4) -> Node:
    """Return a tree like those of `trees`, for tests that make few and large ones."""
    callback, errback = (chance.getrandbits(30) if chance.random() < 0.2 else None for _ in range(2))
    if not depth or chance.random() < 0.3:
        return Node("task", (), chance.getrandbits(30), chance.choice(WAYS), callback, errback)
    kind = chance.choice(["chain", "group", "chord"])
    parts = [random_tree(chance, depth - 1) for _ in range(chance.randint(kind != "group", 4))]
    return Node(kind, tuple(parts), callback=callback, errback=errback)


# --- As signatures ------------------------------------------------------------------------------------


class Journal:
    """The calls that were made, as the interpreter counts them."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, int, Any]] = Counter()
        self.runs: Counter[str] = Counter()  # by id

    def note(self, kind: str, label: int, what: Any = None) -> None:
        request = current_request()
        assert request is not None
        self.calls[kind, label, what] += 1
        self.runs[request.id] += 1


def register(app: Celeriac, journal: Journal) -> None:
    """Register the tasks that trees are made of."""

    @app.task(name="step", bind=True, max_retries=1, default_retry_delay=0)
    def step(self: Any, value: Any, label: int, way: str) -> int:
        if way == "retries" and self.request.retries == 0:
            raise self.retry(exc=OSError("once"))
        journal.note("task", label)
        if way == "fails":
            raise ValueError(label)
        return fold(value, label)

    @app.task(name="callback")
    def callback(value: Any, label: int) -> None:
        journal.note("callback", label, repr(value))

    @app.task(name="errback")
    def errback(request: Any, error: BaseException, traceback: str, label: int) -> None:
        journal.note("errback", label, error.args[0])

    @app.task(name="deaf_errback")
    def deaf_errback(value: Any, label: int) -> None:
        journal.note("errback", label, value)


def signature(app: Celeriac, node: Node, prefix: str = "") -> Any:
    """Return a tree as its signature."""
    parts = [signature(app, part, prefix) for part in node.parts]
    if node.kind == "task":
        step = app.tasks[f"{prefix}step"]
        immutable = node.way == "immutable"
        made: Any = step.si("nothing", node.label, node.way) if immutable else step.s(label=node.label, way=node.way)
    elif node.kind == "chain":
        made = chain(parts)
    elif node.kind == "group":
        made = group(parts)
    else:
        made = chord(parts[:-1], parts[-1])
    if node.callback is not None:
        callback = app.tasks[f"{prefix}callback"]
        made.link(callback.si("nothing", node.callback) if is_deaf(node.callback) else callback.s(label=node.callback))
    if node.errback is not None and is_deaf(node.errback):
        made.link_error(app.tasks[f"{prefix}deaf_errback"].si("nothing", node.errback))
    elif node.errback is not None:
        made.link_error(app.tasks[f"{prefix}errback"].s(label=node.errback))
    return made
