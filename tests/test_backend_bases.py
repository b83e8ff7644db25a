"""The bases of backends keep the promises of the port, each on a dict."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from celeriac import Celeriac, states
from celeriac.backends import bases
from celeriac.backends.bases import PollingBackend
from celeriac.brokers.memory import MemoryBroker
from celeriac.drivers.memory import Store
from celeriac.errors import BackendError
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode
from celeriac.testing import running_worker
from tests.clock import FakeClock
from tests.conformance.backend import BackendConformance, WorkflowConformance, node_end, plan
from tests.conformance.broker import LONG, PROMPTLY, Ports
from tests.key_value import AsyncDictBackend, DictBackend, DictWorkflows, SyncDictBackend

BASES: dict[str, Callable[[FakeClock], PollingBackend]] = {
    "key-value": DictBackend,
    "compare-and-set": DictWorkflows,
    "sync": SyncDictBackend,
    "async": AsyncDictBackend,
}


@pytest.fixture(params=BASES)
def ports(request: pytest.FixtureRequest, clock: FakeClock) -> Ports:
    store = Store()
    return Ports(
        MemoryBroker(store, clock), BASES[request.param](clock), clock, lambda: MemoryBroker(store, clock),
        lists_unfinished=False,
    )  # fmt: skip


class TestBackend(BackendConformance):
    pass


@pytest.mark.parametrize("ports", ["compare-and-set"], indirect=True)
class TestWorkflows(WorkflowConformance):
    pass


# --- Waiting ------------------------------------------------------------------------------------------


class Counting(SyncDictBackend):
    """Notes when it is looked at."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.looks: list[float] = []
        self.looked = threading.Event()

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        self.looks.append(time.monotonic())
        self.looked.set()
        return super().look(ids, final)


def outcome(id: str | None = None) -> Outcome:
    return Outcome(id=id or new_id(), task="t", state=states.SUCCESS)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_caller_polls_with_growing_pauses_and_finds_what_another_process_stored(
    clock: FakeClock, asynchronous: bool
) -> None:
    backend, ended = Counting(clock), outcome()
    timer = threading.Timer(1.0, backend.kept.put, ([ended], clock.now()))  # past `store`: nothing is notified
    timer.start()
    found = (
        asyncio.run(backend.afetch([ended.id], wait=LONG)) if asynchronous else backend.fetch([ended.id], wait=LONG)
    )  # fmt: skip
    assert found == {ended.id: ended}
    assert 3 <= len(backend.looks) <= 12
    assert backend._polls == {}


def test_an_outcome_stored_in_this_process_wakes_its_waiters_alone(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "FIRST_PAUSE", 2 * LONG)  # nothing is found by polling
    monkeypatch.setattr(bases, "LONGEST_PAUSE", 2 * LONG)
    backend, ended = Counting(clock), outcome()
    found: list[dict[str, Outcome]] = []
    thread = threading.Thread(target=lambda: found.append(backend.fetch([ended.id], wait=LONG)))
    thread.start()
    backend.looked.wait(LONG)
    for _ in range(20):
        asyncio.run(backend.store([outcome(), Outcome(id=ended.id, task="t", state=states.STARTED)]))
    assert len(backend.looks) == 1
    asyncio.run(backend.store([ended]))
    thread.join(PROMPTLY)
    assert found == [{ended.id: ended}]
    assert len(backend.looks) == 2


# --- Workflows in two steps ---------------------------------------------------------------------------


async def test_a_node_that_was_stored_and_not_counted_is_counted_when_it_is_settled_again(clock: FakeClock) -> None:
    backend = DictWorkflows(clock)
    backend.plant(plan("w", left=2, missing={2: 2}))
    first, second = node_end("w", 0, join=2), node_end("w", 1, join=2)
    assert await backend.store([first.outcome]) == [True]  # its worker was killed then
    assert await backend.conclude([first, second]) == [False, True]
    assert await backend.claim_pending(10, 5.0) == {PendingNode("w", 0): False, PendingNode("w", 2): False}


def test_finals_are_added_in_one_call_where_the_client_can(clock: FakeClock) -> None:
    calls: list[int] = []

    class Pipelined(DictBackend):
        def add_many(self, items: Sequence[tuple[str, bytes]], expires: float | None) -> list[bool]:
            calls.append(len(items))
            return super().add_many(items, expires)

    backend = Pipelined(clock)
    started, first = Outcome(id="b", task="t", state=states.STARTED), outcome("b")
    assert asyncio.run(backend.store([outcome("a"), started, first, started, outcome("b")])) == (
        [True, True, True, False, False]
    )  # fmt: skip
    assert calls == [3]
    assert backend.fetch(["b"]) == {"b": first}


async def test_a_workflow_that_is_listed_again_is_not_taken_off_by_a_claimer_that_looked_before(
    clock: FakeClock,
) -> None:
    backend = DictWorkflows(clock)
    backend.plant(plan("w", left=2))
    await backend.conclude([node_end("w", 0, leaves_pending=True)])
    (key,) = (key for key in backend.values if key.startswith("p:"))
    seen = backend.get_many([key])[key]
    await backend.claim_pending(10, 5.0)
    await backend.advance([Advance(pending=PendingNode("w", 0))])
    assert await backend.claim_pending(10, 5.0) == {}  # takes it off the list
    assert backend.get_many([key])[key] == b"\x80"
    await backend.conclude([node_end("w", 1, leaves_pending=True)])
    assert backend.get_many([key])[key] != seen  # so a compare-and-set by value fails too


class Dies(DictWorkflows):
    """Fails at the n-th write from now."""

    left = -1

    def _set(self, key: str, value: bytes, expires: float | None) -> None:
        if self.left == 0:
            raise BackendError("killed")
        self.left -= 1
        super()._set(key, value, expires)


@pytest.mark.parametrize("writes", range(12))
async def test_an_advance_that_breaks_off_anywhere_is_made_whole_by_the_next(clock: FakeClock, writes: int) -> None:
    backend = Dies(clock)
    backend.plant(plan("outer", left=1, missing={1: 1}))
    backend.plant(plan("inner", left=2, missing={3: 1}))
    end = node_end("inner", 0, leaves_pending=True)
    stands_for, inside = node_end("outer", 0, join=1).outcome, node_end("inner", 1).outcome
    advance = Advance(pending=PendingNode("inner", 0), outcomes=[stands_for, inside], joins=[3])
    steps: list[Callable[[], object]] = [
        lambda: asyncio.run(backend.conclude([end])), lambda: asyncio.run(backend.advance([advance]))
    ]  # fmt: skip
    backend.left = writes
    for step in steps:
        try:
            await asyncio.to_thread(step)
        except BackendError:
            backend.left = -1
            await asyncio.to_thread(step)
    backend.left = -1
    left = await backend.claim_pending(10, 5.0)
    assert set(left) == {PendingNode("inner", 3), PendingNode("outer", 0), PendingNode("outer", 1)}
    assert set(backend.fetch([end.outcome.id, stands_for.id, inside.id])) == {end.outcome.id, stands_for.id, inside.id}


def test_the_tree_of_a_workflow_that_goes_on_for_months_stays(clock: FakeClock) -> None:
    backend = DictWorkflows(clock)
    backend.plant(plan("w", left=10))
    for number in range(5):
        clock.advance(20 * 86400.0)
        asyncio.run(backend.conclude([NodeEnd(node_end("w", number).outcome)]))
    assert set(backend.trees(["w"])) == {"w"}


@pytest.mark.parametrize("kind", [DictBackend, DictWorkflows])
def test_an_app_works_with_a_key_value_backend(make_app: Callable[..., Celeriac], kind: type[DictBackend]) -> None:
    app = make_app()
    app._backend = kind(app.clock)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    with running_worker(app):
        assert add.delay(1, 2).get(timeout=LONG) == 3
        assert (add.s(1, 2) | add.s(3)).delay().get(timeout=LONG) == 6
        if kind is DictWorkflows:
            chord = app.canvas.group(add.s(number, 1) for number in range(10)) | add.s([0])
            assert sorted(chord.delay().get(timeout=LONG)) == [0, *range(1, 11)]
