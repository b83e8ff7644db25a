"""The words of the canvas, and what becomes of workflows: results, errors, looking, cancelling, running again."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from celeriac import (
    AsyncResult,
    Celeriac,
    GroupResult,
    Signature,
    TaskRevoked,
    chain,
    chord,
    chunks,
    current_request,
    group,
    shared_task,
    signature,
    states,
    xmap,
)
from celeriac.backends.memory import MemoryBackend
from celeriac.brokers.memory.operations import MemoryOperations
from celeriac.errors import ArgumentsError, BrokerUnavailable, MessageTooLarge, ResultLost, UnknownOption, WorkflowError
from celeriac.model.gate import DEEPEST
from celeriac.model.message import PLAIN, Message
from celeriac.model.outcome import Outcome
from celeriac.ports.backend import Backend
from celeriac.ports.broker import Settlement
from celeriac.ports.operations import WorkerInfo
from celeriac.tasks import custom_ids
from celeriac.testing import running_worker
from celeriac.worker import advancer
from celeriac.worker.decide import Ending, decide
from tests.canvas.crew import Crew
from tests.clock import FakeClock
from tests.patience import FOR_EVER, PATIENCE, wait_for

TIMEOUT = PATIENCE


@dataclass
class Line:
    name: str


class OutcomesOnly(Backend):
    """A backend that keeps the outcomes of another, and no workflows."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    async def store(self, outcomes: Sequence[Outcome]) -> list[bool]:
        return await self.inner.store(outcomes)

    def fetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        return self.inner.fetch(ids, wait)

    async def afetch(self, ids: Sequence[str], wait: float = 0.0) -> dict[str, Outcome]:
        return await self.inner.afetch(ids, wait)

    def forget(self, ids: Sequence[str]) -> None:
        self.inner.forget(ids)

    async def aforget(self, ids: Sequence[str]) -> None:
        await self.inner.aforget(ids)

    async def recent(self, limit: int, offset: int = 0, state: str | None = None) -> list[Outcome]:
        return await self.inner.recent(limit, offset, state)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def app(make_app: Callable[..., Celeriac]) -> Celeriac:
    app = make_app(task_queues=["other"])

    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task(name="total")
    def total(numbers: list[Any]) -> int:
        return sum(total(item) if isinstance(item, list) else item for item in numbers)

    @app.task(name="fail", max_retries=0)
    def fail(*args: Any) -> None:
        raise ValueError("no")

    @app.task(name="about")
    def about(*args: Any) -> dict[str, Any]:
        request = current_request()
        assert request is not None
        return {"id": request.id, "root": request.root_id, "parent": request.parent_id, "group": request.group_id,
                "headers": request.headers, "queue": request.queue, "priority": request.priority}  # fmt: skip

    return app


@pytest.fixture
def worker(app: Celeriac) -> Iterator[None]:
    with running_worker(app):
        yield


def s(app: Celeriac, name: str, *args: Any, **kwargs: Any) -> Signature[Any]:
    return app.tasks[name].s(*args, **kwargs)


# --- Words --------------------------------------------------------------------------------------------


def test_a_bar_makes_one_flat_chain(app: Celeriac) -> None:
    made = s(app, "add", 1) | s(app, "add", 2) | (s(app, "add", 3) | s(app, "add", 4))
    assert isinstance(made, chain)
    assert len(made) == 4
    assert repr(made) == "add(1) | add(2) | add(3) | add(4)"
    assert made == chain(s(app, "add", n) for n in (1, 2, 3, 4))


def test_a_group_and_what_comes_after_it_are_a_chord(app: Celeriac) -> None:
    made = s(app, "add", 1) | group(s(app, "add", 2), s(app, "add", 3)) | s(app, "total") | s(app, "add", 4)
    assert [type(task) for task in made.tasks] == [Signature, chord, Signature]
    assert repr(made) == "add(1) | group(add(2), add(3)) | total() | add(4)"


def test_what_is_no_signature_is_refused(app: Celeriac) -> None:
    with pytest.raises(TypeError, match="chain needs signatures"):
        chain(s(app, "add"), 3)
    with pytest.raises(TypeError, match="unsupported operand"):
        s(app, "add") | 3
    with pytest.raises(UnknownOption, match="link_error must be signatures of tasks"):
        chain(s(app, "add", 1), s(app, "add")).on_error(group(s(app, "add"))).delay()
    with pytest.raises(UnknownOption, match=r"'chian'.* Did you mean 'chain'"):
        app.signature({"kind": "chian", "tasks": []})


def test_nothing_of_a_workflow_is_sent_when_one_call_is_wrong(app: Celeriac) -> None:
    for wrong in (
        s(app, "add", 1, 2, 3) | s(app, "add"),
        s(app, "add", 1) | s(app, "add", 2, 3),
        s(app, "add", 1) | group(s(app, "add", 1), s(app, "total", [], 2)),
    ):
        with pytest.raises(ArgumentsError):
            wrong.delay()
    with pytest.raises(WorkflowError, match="A chain without tasks"):
        chain().delay()
    store = app.broker.shared  # type: ignore[attr-defined]
    assert not store.messages
    assert not store.workflows


def test_two_tasks_of_one_id_are_refused(app: Celeriac) -> None:
    one, same = (s(app, "add", number).set(task_id="mine") for number in (1, 2))
    for wrong in (group(one, same), group(one, same) | s(app, "total"), one | same, one | group(s(app, "add"), same)):
        with pytest.raises(WorkflowError, match=r"2 tasks of the workflow have the id 'mine'.*its own `task_id`"):
            wrong.delay()
    with pytest.raises(WorkflowError, match="'mine'"):
        (one | s(app, "add")).apply_async(task_id="mine")
    assert not app.broker.shared.messages  # type: ignore[attr-defined]


def test_tasks_of_two_apps_are_refused(app: Celeriac, make_app: Callable[..., Celeriac]) -> None:
    other = make_app(broker_url="memory://another")
    stranger = other.task(name="stranger")(lambda *args: 1).s(1)
    add = s(app, "add", 1)
    for wrong in (
        group(add, stranger),
        add | stranger,
        group(add, group(add, stranger)),
        chord([add, add], stranger),
        add.clone().link(stranger),
        (add | add).link_error(stranger),
    ):
        for send in (wrong.delay, wrong.apply):
            with pytest.raises(WorkflowError, match=r"stranger\(1\) is a task of another app.*signature\('stranger'"):
                send()
    assert not app.broker.shared.messages  # type: ignore[attr-defined]


@pytest.mark.usefixtures("worker")
def test_a_shared_task_goes_with_those_of_any_app(app: Celeriac, make_app: Callable[..., Celeriac]) -> None:
    @shared_task(name="shared.canvas")
    def shared(x: int) -> int:
        return x + 100

    make_app(broker_url="memory://another")  # shared.s() is of this one
    assert group(s(app, "add", 1), shared.s(1)).delay().get(TIMEOUT) == [2, 101]
    assert (s(app, "add", 1) | shared.s()).delay().get(TIMEOUT) == 102


def test_a_workflow_travels_as_plain_data(app: Celeriac) -> None:
    made = (s(app, "add", 1) | group([s(app, "add", 2).set(queue="other")]) | s(app, "total")).on_error(s(app, "fail"))
    back = app.signature(made.to_dict())
    assert back == made
    assert signature(s(app, "add", 1)) == s(app, "add", 1)
    assert signature(app.tasks["add"], (1,)) == s(app, "add", 1)


def test_a_clone_has_more_arguments_and_leaves_the_original(app: Celeriac) -> None:
    made = s(app, "add") | s(app, "add", 5)
    assert repr(made.clone((1,))) == "add(1) | add(5)"
    assert repr(made) == "add() | add(5)"
    assert repr(group(s(app, "add"), app.tasks["add"].si(1, 1)).clone((7,))) == "group(add(7), add(1, 1))"


@pytest.mark.usefixtures("worker")
def test_map_starmap_and_chunks(app: Celeriac) -> None:
    add = app.tasks["add"]
    assert xmap(add, [1, 2]).delay().get(TIMEOUT) == [2, 3]
    assert add.map([1, 2]).delay().get(TIMEOUT) == [2, 3]
    assert add.starmap([(1, 2), (3, 4)]).delay().get(TIMEOUT) == [3, 7]
    assert add.chunks([(n, n) for n in range(5)], 2).delay().get(TIMEOUT) == [[0, 2], [4, 6], [8]]
    assert (chunks(add, [(n, n) for n in range(5)], 2) | s(app, "total")).delay().get(TIMEOUT) == 20
    with pytest.raises(ValueError, match="size must be 1 or more"):
        add.chunks([], 0)


def test_map_starmap_and_chunks_rebuild_records_as_a_call_does(app: Celeriac, worker: None) -> None:
    @app.task
    def name(line: Line, *more: Line) -> list[str]:
        return [one.name for one in (line, *more)]

    assert name.map([Line("a"), Line("b")]).delay().get(TIMEOUT) == [["a"], ["b"]]
    assert name.starmap([(Line("a"), Line("b"))]).delay().get(TIMEOUT) == [["a", "b"]]
    assert name.chunks([(Line("a"),), (Line("b"),)], 1).delay().get(TIMEOUT) == [[["a"]], [["b"]]]


def test_drawings(app: Celeriac) -> None:
    made = s(app, "add", 1) | group(s(app, "add", 2), s(app, "fail")) | s(app, "total")
    assert made.graph("text").splitlines() == [
        "add", "┌ group of 2", "│ add", "│ fail", "└ 2 results", "total",
    ]  # fmt: skip
    assert "n0 --> n2" in made.graph()
    assert 'n1 [label="2 results", shape=ellipse];' in made.graph("dot")
    with pytest.raises(ValueError, match="Did you mean 'mermaid'"):
        made.graph("mermeid")


# --- Results ------------------------------------------------------------------------------------------


def test_parents_and_children_are_known_at_once(app: Celeriac) -> None:
    result = (s(app, "add", 1) | s(app, "add", 2) | group(s(app, "add", 3), s(app, "add", 4)) | s(app, "total")).delay()
    header = result.parent
    assert isinstance(header, GroupResult)
    assert [leaf.task_name for leaf in header.results] == ["add", "add"]
    second = header.parent
    assert second.parent == result.root
    assert second.children == [header]
    assert header.children == [*header.results, result]
    assert result.root.parent is None
    assert result.children == []


@pytest.mark.usefixtures("worker")
def test_a_result_found_by_its_id_leads_to_its_workflow(app: Celeriac) -> None:
    result = (s(app, "add", 1) | s(app, "add", 2) | s(app, "add", 3)).delay()
    assert result.get(TIMEOUT) == 7
    found = app.AsyncResult(result.id)
    assert found.parent.get(TIMEOUT) == 4
    assert found.root.get(TIMEOUT) == 2
    assert [value for _, value in found.root.collect()] == [2, 4, 7]
    assert found.root.get_leaf(TIMEOUT) == 7
    assert app.workflow(found.workflow_id).result == result


@pytest.mark.usefixtures("worker")
def test_an_exception_names_the_task_that_failed(app: Celeriac) -> None:
    result = (s(app, "add", 1) | s(app, "fail") | s(app, "add", 3)).delay()
    with pytest.raises(ValueError, match="no") as caught:
        result.get(TIMEOUT)
    failed = result.parent
    assert f"was not run, because {failed.id} before it failed" in "".join(caught.value.__notes__)
    assert result.state == failed.state == states.FAILURE
    assert result.outcome.cause == failed.id
    assert failed.outcome.cause is None


@pytest.mark.usefixtures("worker")
def test_a_group_can_be_saved_and_restored(app: Celeriac) -> None:
    sent = group(s(app, "add", 1), group(s(app, "add", 2), s(app, "add", 3))).delay().save()
    found = app.GroupResult(sent.id)
    assert found == sent
    assert found is not None
    assert found.get(TIMEOUT) == [2, [3, 4]]
    assert found.completed_count() == 3
    assert [member.get() for member in found] == [2, [3, 4]]
    assert {leaf.get() for leaf in found.as_completed(TIMEOUT)} == {2, 3, 4}
    plain = group(s(app, "add", n) for n in range(3)).delay().save()
    assert GroupResult.restore(plain.id, app).join(TIMEOUT) == [1, 2, 3]  # type: ignore[union-attr]
    assert GroupResult.restore(plain.id) == plain
    plain.delete()
    assert GroupResult.restore(plain.id, app) is None
    empty = group([]).delay().save()
    found = app.GroupResult(empty.id)
    assert found is not None
    assert (found.get(TIMEOUT), len(found)) == ([], 0)
    empty.delete()
    assert app.GroupResult(empty.id) is None


@pytest.mark.usefixtures("worker")
async def test_workflows_are_for_coroutines_too(app: Celeriac) -> None:
    result = await (group(s(app, "add", n) for n in range(3)) | s(app, "total")).adelay()
    assert await result == 6
    assert await result.parent.aget() == [1, 2, 3]


def test_headers_ids_and_options_flow_to_every_task(app: Celeriac) -> None:
    made = s(app, "about") | group(s(app, "about").set(headers={"own": 1}), s(app, "about")) | s(app, "about")
    with running_worker(app):
        result = made.stamp(customer=7).apply_async(queue="other", priority=9, task_id="the-end")
        last = result.get(TIMEOUT)
        members, first = result.parent.get(TIMEOUT), result.root.get(TIMEOUT)
    assert result.id == last["id"] == "the-end"
    assert {told["root"] for told in (first, *members, last)} == {first["id"]}
    assert [told["parent"] for told in members] == [first["id"]] * 2
    assert [told["group"] for told in members] == [result.parent.id] * 2
    assert last["parent"] in [told["id"] for told in members]
    assert members[0]["headers"] == {"own": 1, "customer": 7}
    assert last["headers"] == {"customer": 7}
    assert {(told["queue"], told["priority"]) for told in (first, *members, last)} == {("other", 9)}


@pytest.mark.parametrize("eager", [False, True])
def test_the_parent_of_what_follows_a_group_is_the_member_that_ended_last(app: Celeriac, eager: bool) -> None:
    about = s(app, "about")
    with running_worker(app):
        for parts in ([about, about], [about, group(about, group())], [about | about, about]):
            made = group(parts) | group(about, about) | about
            result = made.apply() if eager else made.delay()
            assert result.get(TIMEOUT)["parent"] in [one.id for one in result.parent.results]
            ends = {outcome.id: outcome.done_at for outcome in _outcomes(result.parent.parent.results)}
            (parent,) = {told["parent"] for told in result.parent.get(TIMEOUT)}
            assert ends[parent] == max(ends.values())
        failed = group(about, s(app, "fail")) | about | about
        result = failed.apply() if eager else failed.delay()
        with pytest.raises(ValueError, match="no"):
            result.get(TIMEOUT)
        assert result.outcome.parent_id == result.parent.id
        assert result.parent.outcome.parent_id in [one.id for one in result.parent.parent.results]
        lone = group() | about
        assert (lone.apply() if eager else lone.delay()).get(TIMEOUT)["parent"] is None


def _outcomes(results: Iterable[Any]) -> list[Outcome]:
    found = [
        _outcomes(result.results) if isinstance(result, GroupResult) else [result.outcome] for result in results
    ]
    return [outcome for some in found for outcome in some]


def test_a_countdown_counts_from_when_its_task_is_sent(app: Celeriac) -> None:
    made = s(app, "add", 1).set(countdown=100) | s(app, "add").set(countdown=5, expires=50)
    made.delay()
    store = app.broker.shared  # type: ignore[attr-defined]
    ((_, first, _),) = store.messages.values()
    assert first.due_at == pytest.approx(first.sent_at + 100, abs=1)
    ((id, workflow),) = store.workflows.items()
    tree = app.workflows.cache({id: workflow.tree})[id]
    assert (tree.step(1).countdown, tree.step(1).expires) == (pytest.approx(5), pytest.approx(50))
    assert tree.step(1).message.due_at is None


EMPTY: dict[str, Callable[[], Any]] = {
    "one": lambda: group(),
    "two": lambda: group() | group(),
    "of an empty one": lambda: group(group(), group() | group()),
}


@pytest.mark.parametrize("empty", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("in_group", [False, True])
def test_what_follows_an_empty_group_alone_starts_at_once_with_the_times_of_the_call(
    make_app: Callable[..., Celeriac], clock: FakeClock, empty: Callable[[], Any], in_group: bool
) -> None:
    app = make_app(clock=clock)

    @app.task(name="total")
    def total(numbers: list[int], y: int = 0) -> int:
        return sum(numbers) + y

    def sent(step: Any, **options: Any) -> Message:
        store = app.broker.shared  # type: ignore[attr-defined]
        store.messages.clear()
        (empty() | (group(step) if in_group else step) | app.tasks["total"].si([])).apply_async(**options)
        ((_, message, _),) = store.messages.values()
        assert message.sent_at == clock.now()
        return message

    now = clock.now()
    assert (sent(total.s()).due_at, sent(total.s()).expires_at) == (None, None)
    assert sent(total.s().set(expires=60)).expires_at == now + 60
    assert sent(total.s().set(countdown=5)).due_at == now + 5
    assert sent(total.s(), expires=60).expires_at == now + 60
    assert sent(total.s(), countdown=7).due_at == now + 7
    assert sent(total.s(), eta=datetime.fromtimestamp(now + 9, UTC)).due_at == now + 9
    later = (empty() | total.s() | total.s().set(countdown=3)).apply_async(countdown=7)
    tree = app.workflow(later.workflow_id).tree
    assert [step.countdown for _, step in tree.steps()] == [7, 3]


# --- Errors -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_error_callbacks_have_two_forms(app: Celeriac) -> None:
    told: list[Any] = []
    both = threading.Semaphore(0)

    @app.task(name="by_id")
    def by_id(id: str) -> None:
        told.append(id)
        both.release()

    @app.task(name="in_full")
    def in_full(request: Any, exc: BaseException, traceback: str, note: str) -> None:
        told.append((request.id, request.task.name, type(exc), str(exc), "raise ValueError" in traceback, note))
        both.release()

    made = s(app, "fail").on_error(by_id.s()).on_error(in_full.s("noted"))
    failed = (made | s(app, "add")).delay().parent
    assert both.acquire(timeout=TIMEOUT)
    assert both.acquire(timeout=TIMEOUT)
    in_full_told = (failed.id, "in_full", ValueError, "no", True, "noted")
    assert sorted(told, key=str) == sorted([failed.id, in_full_told], key=str)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_an_id_is_used_again(make_app: Callable[..., Celeriac], request: pytest.FixtureRequest, tmp_path: Path,
                             kind: str) -> None:  # fmt: skip
    app = make_app(**{
        "memory": {},
        "sqlite": {"broker_url": f"sqlite:///{tmp_path}/celeriac.db"},
        "redis": {"broker_url": request.getfixturevalue("redis").url if kind == "redis" else ""},
    }[kind])  # fmt: skip
    linked = threading.Event()

    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task(name="tell")
    def tell(x: int) -> None:
        if x == 11:
            linked.set()

    with running_worker(app):
        assert add.apply_async((1,), task_id="mine").get(TIMEOUT) == 2
        assert add.apply_async((10,), task_id="mine", link=tell.s()).get(TIMEOUT) == 11
        assert linked.wait(TIMEOUT)
        assert asyncio.run(_sent_again(app)) == 21
        assert app.send_task("add", (30,), task_id="mine").get(TIMEOUT) == 31
        assert (add.s(40).set(task_id="mine") | add.s()).delay().get(TIMEOUT) == 42
        assert group(add.s(50).set(task_id="mine"), add.s(60)).delay().get(TIMEOUT) == [51, 61]
        assert (group(add.s(70).set(task_id="mine"), add.s(80)) | add.s([])).delay().get(TIMEOUT) == [71, 81]


async def _sent_again(app: Celeriac) -> Any:
    return await (await app.tasks["add"].aapply_async((20,), task_id="mine")).aget(TIMEOUT)


def test_an_id_that_is_still_on_its_way_is_not_sent_again_and_ties_no_workflow(app: Celeriac) -> None:
    later = s(app, "add", 1).set(task_id="mine", countdown=0.2)
    first, second = later.delay(), s(app, "add", 50).apply_async(task_id="mine")
    with pytest.raises(WorkflowError, match=r"'mine' is in use: add is scheduled in the queue 'default'"):
        (s(app, "add", 50).set(task_id="mine") | s(app, "add")).delay()
    with running_worker(app):
        assert (first.get(TIMEOUT), second.get(TIMEOUT)) == (2, 2)


@pytest.mark.parametrize("is_workflow", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_id_is_used_again_as_soon_as_its_result_is_there(
    make_app: Callable[..., Celeriac], monkeypatch: pytest.MonkeyPatch, is_workflow: bool, is_async: bool
) -> None:
    """With outcomes on another server, the worker acknowledges the message after the caller has received the result."""
    app = make_app(result_backend="memory://results-of-an-id-that-is-used-again")
    add = app.task(name="add")(lambda x: x + 1)
    add.apply_async((1,), task_id="mine")
    lease = await app.broker.lease(WorkerInfo(name="w"), 60.0, 3)
    (delivery,) = await lease.receive(["default"], {PLAIN: 1}, TIMEOUT)
    await app.backend.store([Outcome(id="mine", task="add", state=states.SUCCESS)])
    find = MemoryOperations.find

    async def find_and_settle(self: MemoryOperations, ids: Sequence[str]) -> dict[str, tuple[str, Message]]:
        found = await find(self, ids)
        await lease.settle([Settlement(delivery=delivery)])
        return found

    monkeypatch.setattr(MemoryOperations, "find", find_and_settle)
    made: Any = chain(add.s(20).set(task_id="mine"), add.s()) if is_workflow else add.s(20).set(task_id="mine")
    if is_async:
        await made.adelay()
    else:
        await asyncio.to_thread(made.delay)
    assert await app.backend.afetch(["mine"]) == {}
    (again,) = await lease.receive(["default"], {PLAIN: 1}, TIMEOUT)
    assert (again.message.id, again.message.body) == ("mine", b"[[20],{}]")


async def test_an_id_whose_message_a_dead_worker_held_is_not_waited_for_long(
    make_app: Callable[..., Celeriac], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_ids, "ACKNOWLEDGED_SECONDS", 0.05)
    app = make_app(result_backend="memory://results-of-a-dead-worker")
    add = app.task(name="add")(lambda x: x + 1)
    add.apply_async((1,), task_id="mine")
    lease = await app.broker.lease(WorkerInfo(name="w"), 60.0, 3)
    await lease.receive(["default"], {PLAIN: 1}, TIMEOUT)
    await app.backend.store([Outcome(id="mine", task="add", state=states.SUCCESS)])
    await add.aapply_async((20,), task_id="mine")
    assert set(await app.backend.afetch(["mine"])) == {"mine"}
    with pytest.raises(WorkflowError, match="'mine' is in use: add is active"):
        await (add.s(20).set(task_id="mine") | add.s()).adelay()


def test_a_result_that_others_are_given_travels_as_json(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(result_serializer="pickle", accept_content=["json", "pickle"])
    told: list[Any] = []
    heard = threading.Event()

    @app.task(name="pair")
    def pair(x: Any, y: Any = None) -> Any:
        return (x, y)

    @app.task(name="tell")
    def tell(x: Any) -> None:
        told.append(x)
        heard.set()

    with running_worker(app):
        assert pair.delay(1).get(TIMEOUT) == (1, None)
        assert (pair.s(1) | pair.s()).delay().get(TIMEOUT) == ([1, None], None)
        assert (group(pair.s(1), pair.s(2)) | pair.s()).delay().get(TIMEOUT) == ([[1, None], [2, None]], None)
        assert pair.apply_async((1,), link=tell.s()).get(TIMEOUT) == [1, None]
        assert heard.wait(TIMEOUT)
    assert told == [[1, None]]
    assert (pair.s(1) | pair.s()).apply().get() == ([1, None], None)


def test_a_callback_that_could_not_be_called_is_refused(app: Celeriac) -> None:
    add, many = app.tasks["add"], s(app, "add", 2, 3)
    for wrong in (
        lambda: add.apply_async((1,), link=many),
        lambda: add.apply_async((1,), link=s(app, "add").set(immutable=True)),
        lambda: add.apply_async((1,), link_error=many),
        lambda: s(app, "add", 1).link(many).delay(),
        lambda: (s(app, "add", 1) | s(app, "add")).on_error(many).delay(),
        lambda: group(s(app, "add", 1)).link(many).delay(),
    ):
        with pytest.raises(ArgumentsError, match="add"):
            wrong()
    add.apply_async((1,), link=s(app, "add", 2), link_error=[s(app, "add", 2), s(app, "fail", 2, 3), add.si(1, 2)])


@pytest.mark.usefixtures("worker")
async def test_a_workflow_can_be_linked_to_any_call(app: Celeriac) -> None:
    add, heard = app.tasks["add"], threading.Event()
    app.task(name="hear")(lambda x: heard.set() if x == 5 else None)
    following = s(app, "add", 2) | s(app, "hear")
    for call in (
        lambda: add.apply_async((1, 2), link=following),
        lambda: add.apply((1, 2), link=following),
        lambda: s(app, "add", 1, 2).apply_async(link=following),
        lambda: s(app, "add", 1, 2).apply(link=following),
        lambda: app.send_task("add", (1, 2), link=[following]),
    ):
        heard.clear()
        assert await asyncio.to_thread(call().get, TIMEOUT) == 3
        assert await asyncio.to_thread(heard.wait, TIMEOUT)
    heard.clear()
    assert await (await add.aapply_async((1, 2), link=following)).aget(TIMEOUT) == 3
    assert await asyncio.to_thread(heard.wait, TIMEOUT)


def test_a_callback_whose_arguments_are_pickled_is_refused(app: Celeriac) -> None:
    pickled = s(app, "add").set(serializer="pickle")
    for wrong in (
        lambda: app.tasks["add"].apply_async((1,), link=pickled),
        lambda: s(app, "add", 1).link(pickled).delay(),
        lambda: (s(app, "add", 1) | s(app, "add")).link(pickled).delay(),
        lambda: (s(app, "add", 1) | pickled).delay(),
    ):
        with pytest.raises(WorkflowError, match=r"add would receive a result, which is sent as JSON.*\.si\(\)"):
            wrong()
    app.tasks["add"].apply_async((1,), link=s(app, "add", 1).set(serializer="pickle", immutable=True))


@pytest.mark.usefixtures("worker")
def test_ignoring_a_result_does_not_keep_a_chord_from_its_body(app: Celeriac) -> None:
    made = group(s(app, "add", 1).set(ignore_result=True), s(app, "add", 2)) | s(app, "about")
    assert made.delay().get(TIMEOUT)
    assert (s(app, "add", 1).set(ignore_result=True) | s(app, "add", 5)).delay().get(TIMEOUT) == 7


async def test_empty_groups_alone_are_no_workflow_though_they_have_an_error_callback(app: Celeriac) -> None:
    empty = group(group(), group()).link_error(app.signature("about"))
    sent, asent = empty.delay(), await empty.adelay()
    for result in (sent, asent):
        assert (result.workflow_id, result.get(TIMEOUT)) == (None, [[], []])
    assert not await app.broker.operations().peek("default", 1)


@pytest.mark.parametrize("settings", [{}, {"result_backend": "memory://elsewhere"}])
async def test_what_follows_is_given_a_result_that_is_ignored(
    make_app: Callable[..., Celeriac], settings: dict[str, str]
) -> None:
    app = make_app(**settings)

    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task(name="pair")
    def pair(x: Any, y: Any) -> Any:
        return [x, y]

    ignored = add.s(1).set(ignore_result=True)
    simple = await (ignored | add.s(5)).adelay()
    with_empty_group = await (group(ignored | group(), ignored | add.s(7)) | pair.s("after")).adelay()
    crew = await Crew.of(app)
    await crew.finish()
    assert await simple.aget(TIMEOUT) == 7
    assert await with_empty_group.aget(TIMEOUT) == [[[], 9], "after"]


def test_a_failure_reaches_the_end_of_a_chain_at_once(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker does not wait until it next looks for what others have left."""
    monkeypatch.setattr(advancer, "POLL_SECONDS", FOR_EVER)
    with running_worker(app):
        for _ in range(5):
            with pytest.raises(ValueError, match="no"):
                (s(app, "fail") | s(app, "add")).delay().get(TIMEOUT)


def test_a_workflow_that_cannot_be_read_does_not_stop_a_worker(app: Celeriac) -> None:
    pair = (s(app, "add", 1) | s(app, "add", 2)).delay()
    joined = chord([s(app, "add", 1), s(app, "fail")], s(app, "total")).delay()
    assert isinstance(app.backend, MemoryBackend)
    for workflow in app.backend.shared.workflows.values():
        workflow.tree = b"junk"
    with running_worker(app):
        assert pair.parent.get(TIMEOUT) == 2
        with pytest.raises(ValueError, match="no"):
            joined.parent[1].get(TIMEOUT)
        assert (s(app, "add", 1) | s(app, "add", 2)).delay().get(TIMEOUT) == 4


@pytest.mark.parametrize("way", ["revoked", "expired"])
def test_what_waits_for_a_revoked_or_expired_task_ends_with_it(app: Celeriac, way: str) -> None:
    called = threading.Event()

    @app.task(name="called")
    def errback(id: str) -> None:
        called.set()

    first = s(app, "add", 1).set(expires=0) if way == "expired" else s(app, "add", 1)
    result = chord([first, s(app, "add", 2)], s(app, "total") | s(app, "add")).on_error(errback.s()).delay()
    if way == "revoked":
        result.parent.parent[0].revoke()
    with running_worker(app):
        with pytest.raises(TaskRevoked):
            result.get(TIMEOUT)
        assert called.wait(TIMEOUT)
    assert result.state == states.REVOKED


@pytest.mark.usefixtures("worker")
def test_an_ignored_task_ends_what_waits_for_it(app: Celeriac) -> None:
    from celeriac import Ignore

    @app.task(name="ignores")
    def ignores() -> None:
        raise Ignore

    result = (group(ignores.s(), s(app, "add", 1)) | s(app, "total")).delay()
    assert result.get(TIMEOUT) is None
    assert result.state == states.IGNORED


async def test_a_result_that_was_lost_fails_what_needs_it(app: Celeriac) -> None:
    result = await chord([s(app, "add", 1), s(app, "add", 2).set(queue="other")], s(app, "total")).adelay()
    crew = await Crew.of(app)
    await crew.work()
    result.parent[0].forget()
    deliveries = await crew.lease.receive(["other"], {"plain": 1}, 0.0)
    await crew.settle(deliveries)
    await crew.advancing.finish()
    with pytest.raises(ResultLost, match="Raise `result_expires`"):
        await result.aget(TIMEOUT)


async def test_what_a_dead_worker_may_have_sent_already_is_sent_with_a_mark(
    make_app: Callable[..., Celeriac], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(result_backend="memory://elsewhere", clock=clock)

    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    marked: dict[str, bool] = {}
    publish = app.broker.apublish

    async def noted(messages: Sequence[Message], again: bool = False) -> None:
        marked.update(dict.fromkeys([message.id for message in messages], again))
        await publish(messages, again)

    first, second = add.s(1) | add.s(2), add.s(1) | add.s(3)
    crew = await Crew.of(app)
    results = []
    for taken_before, made in ((True, first), (False, second)):
        results.append(await made.adelay())
        await crew.settle(await crew.lease.receive(["default"], {"plain": 1}, 0.0))
        if taken_before:
            assert len(await app.backend.claim_pending(10, 5.0)) == 1  # by a worker that then dies
            clock.advance(6)
    monkeypatch.setattr(app.broker, "apublish", noted)
    await crew.advancing.finish()
    assert marked == {results[0].id: True, results[1].id: False}


@pytest.mark.parametrize("stalls", [True, False])
async def test_what_another_worker_may_have_sent_meanwhile_is_sent_with_a_mark(
    make_app: Callable[..., Celeriac], clock: FakeClock, monkeypatch: pytest.MonkeyPatch, stalls: bool
) -> None:
    app = make_app(result_backend="memory://elsewhere", clock=clock)

    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    marked: list[tuple[str, bool]] = []
    fetch, advance = app.backend.afetch, app.backend.advance

    async def noted(messages: Sequence[Message], again: bool = False) -> None:
        marked.extend((message.id, again) for message in messages)

    async def slowly(ids: Sequence[str]) -> dict[str, Outcome]:
        found = await fetch(ids)
        monkeypatch.setattr(app.backend, "afetch", fetch)
        clock.advance(6)
        await (await Crew.of(app)).advancing.finish()  # by another worker, while this one stalls
        return found

    async def refused(advances: Sequence[Any]) -> list[bool]:
        monkeypatch.setattr(app.backend, "advance", advance)
        raise ValueError("one of them is refused")

    crew = await Crew.of(app)
    result = await (add.s(1) | add.s(2)).adelay()
    await crew.settle(await crew.lease.receive(["default"], {"plain": 1}, 0.0))
    monkeypatch.setattr(app.broker, "apublish", noted)
    monkeypatch.setattr(app.backend, "afetch" if stalls else "advance", slowly if stalls else refused)
    await crew.advancing.finish()
    if stalls:
        assert marked == [(result.id, True), (result.id, True)]
    else:
        assert marked == [(result.id, False), (result.id, True)]


# --- A task that is replaced --------------------------------------------------------------------------


def replaced_by(app: Celeriac, part: Callable[[], Any]) -> Any:
    @app.task(name=f"replaces{len(app.tasks)}", bind=True)
    def replaces(self: Any, *args: Any) -> None:
        raise self.replace(part())

    return replaces


@pytest.mark.parametrize("eager", [False, True])
def test_a_task_is_replaced_by_a_task_or_a_workflow(app: Celeriac, eager: bool) -> None:
    cases = {
        3: lambda: s(app, "add", 1, 2),
        4: lambda: s(app, "add", 1) | s(app, "add", 2),
        5: lambda: group(s(app, "add", 1), s(app, "add", 2)) | s(app, "total"),
        6: lambda: group(s(app, "add", 1), s(app, "add", 2)) | s(app, "total") | s(app, "add"),
    }
    with running_worker(app):
        for value, part in cases.items():
            task = replaced_by(app, part)
            for sent in (task.s(), task.s() | s(app, "add", 10), group(task.s(), s(app, "add", 0)) | s(app, "total")):
                result = sent.apply() if eager else sent.delay()
                extra = {Signature: 0, chain: 10}.get(type(sent), 0)
                extra = 1 if isinstance(sent, chain) and isinstance(sent.tasks[0], chord) else extra
                assert result.get(TIMEOUT) == value + extra
        listed = replaced_by(app, lambda: group(s(app, "add", 1), s(app, "add", 2)))
        assert (listed.s().apply() if eager else listed.delay()).get(TIMEOUT) == [2, 3]


@pytest.mark.parametrize("eager", [False, True])
def test_what_is_linked_to_a_replacement_is_sent_wherever_the_task_that_it_replaces_stands(
    app: Celeriac, eager: bool
) -> None:
    noted: queue.Queue[int] = queue.Queue()

    @app.task(name="note")
    def note(number: int) -> None:
        noted.put(number)

    parts: list[Callable[[], Any]] = [
        lambda: chain(s(app, "add", 1), s(app, "add", 1)).link(note.si(1)),
        lambda: chain(s(app, "add", 1), s(app, "add", 1).link(note.si(1))),
        lambda: s(app, "add", 2).link(group() | note.si(1)),
        lambda: s(app, "add", 2).link(note.si(1)),
        lambda: group(s(app, "add", 1), s(app, "add", 2)).link(note.si(1)),
    ]
    with running_worker(app):
        for part in parts:
            task = replaced_by(app, part)
            about = s(app, "about")
            for sent in (task.s(), task.s() | about, group(task.s(), task.si()) | about, about | task.s()):
                (sent.apply() if eager else sent.delay()).get(TIMEOUT)
                if isinstance(sent, chain) and isinstance(sent.tasks[0], chord):
                    assert noted.get(timeout=TIMEOUT) == 1
                assert noted.get(timeout=TIMEOUT) == 1
    assert noted.empty()


@pytest.mark.parametrize("eager", [False, True])
def test_an_empty_chain_replaces_no_task(app: Celeriac, eager: bool) -> None:
    with running_worker(app):
        task = replaced_by(app, chain)
        result = task.s().apply() if eager else task.delay()
        with pytest.raises(WorkflowError, match="A chain without tasks has no result"):
            result.get(TIMEOUT)


@pytest.mark.usefixtures("worker")
def test_what_waits_for_a_task_fails_with_what_has_replaced_it(app: Celeriac) -> None:
    task = replaced_by(app, lambda: s(app, "add", 1) | s(app, "fail") | s(app, "add"))
    result = (group(task.s(), s(app, "add", 1)) | s(app, "total")).delay()
    with pytest.raises(ValueError, match="no"):
        result.get(TIMEOUT)


# --- A workflow that was sent -------------------------------------------------------------------------


def test_a_workflow_can_be_looked_at_and_cancelled(app: Celeriac) -> None:
    result = (s(app, "add", 1) | s(app, "add", 2) | s(app, "add", 3)).apply_async(countdown=3600)
    workflow = app.workflow(result.workflow_id)
    assert workflow.progress() == (0, 3)
    assert workflow.cancel() == 3
    with running_worker(app):
        with pytest.raises(TaskRevoked):
            workflow.result.get(TIMEOUT)
    assert workflow.finished()
    assert workflow.counts() == {states.REVOKED: 3}
    assert "add: REVOKED" in workflow.graph("text")
    with pytest.raises(WorkflowError, match="There is no workflow nobody"):
        app.workflow("nobody")
    workflow.forget()


def test_a_workflow_is_run_again_from_what_failed(app: Celeriac) -> None:
    broken = [True]
    runs: list[str] = []

    @app.task(name="careful", max_retries=0)
    def careful(x: int) -> int:
        runs.append("careful")
        if broken[0]:
            raise OSError("not yet")
        return x * 2

    @app.task(name="once")
    def once(x: int) -> int:
        runs.append("once")
        return x

    made = once.s(1) | group(careful.s(), once.s(), once.s() | careful.s()) | s(app, "total") | s(app, "add", 100)
    with running_worker(app):
        result = made.delay()
        with pytest.raises(OSError, match="not yet"):
            result.get(TIMEOUT)
        workflow = app.workflow(result.workflow_id)
        assert workflow.counts() == {states.SUCCESS: 3, states.FAILURE: 4}
        broken[0] = False
        runs.clear()
        assert workflow.retry() == 2
        assert result.get(TIMEOUT) == 2 + 1 + 2 + 100
        assert sorted(runs) == ["careful", "careful"]
        assert workflow.retry() == 0
        unfinished = s(app, "add", 1).set(countdown=60) | s(app, "add")
        with pytest.raises(WorkflowError, match="has not ended"):
            app.workflow(unfinished.delay().workflow_id).retry()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_running_a_workflow_again_can_be_repeated_after_it_broke_off(
    make_app: Callable[..., Celeriac], monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    app = make_app(**({"result_backend": "memory://elsewhere"} if elsewhere else {}))
    broken, go = [True], threading.Event()

    @app.task(name="careful", max_retries=0)
    def careful(x: int) -> int:
        if broken[0]:
            raise OSError("not yet")
        go.wait(TIMEOUT)
        return x

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    def lost(*args: Any) -> None:
        raise BrokerUnavailable("cut off")

    with running_worker(app):
        result = (group(careful.s(number) for number in range(3)) | total.s()).delay()
        with pytest.raises(OSError, match="not yet"):
            result.get(TIMEOUT)
        workflow = app.workflow(result.workflow_id)
        wait_for(workflow.finished)
        with monkeypatch.context() as patch:
            patch.setattr(app.broker, "revoke", lost)
            with pytest.raises(BrokerUnavailable):
                workflow.retry()
        assert workflow.counts() == {states.FAILURE: 4}
        with monkeypatch.context() as patch:
            patch.setattr(app.broker, "publish", lost)
            with pytest.raises(BrokerUnavailable):
                workflow.retry()
        assert workflow.counts() == {states.PENDING: 4}
        broken[0] = False
        assert workflow.retry() == 3
        with pytest.raises(WorkflowError, match="has not ended"):
            workflow.retry()
        go.set()
        assert result.get(TIMEOUT) == 3
        assert workflow.retry() == 0


def test_a_workflow_of_which_a_worker_is_about_to_send_more_is_not_run_again(app: Celeriac) -> None:
    failing = (s(app, "fail") | s(app, "add")).delay()
    crew = asyncio.run(Crew.of(app))
    asyncio.run(settle_one(crew, states.FAILURE))
    body = chord([s(app, "fail"), s(app, "add", 1)], s(app, "about")).delay()
    asyncio.run(settle_one(crew, states.FAILURE))
    asyncio.run(settle_one(crew))
    for result in (failing, body):
        with pytest.raises(WorkflowError, match="has not ended"):
            app.workflow(result.workflow_id).retry()
    asyncio.run(crew.advancing.finish())
    workflow = app.workflow(body.workflow_id)
    assert workflow.retry() == 1
    asyncio.run(settle_one(crew))
    assert workflow.counts() == {states.SUCCESS: 2, states.PENDING: 1}
    with pytest.raises(WorkflowError, match="has not ended"):
        workflow.retry()
    assert app.workflow(failing.workflow_id).retry() == 1


async def settle_one(crew: Crew, state: str = states.SUCCESS) -> None:
    """Let the next task end, and do nothing about what follows."""
    [one] = await crew.lease.receive(["default"], {PLAIN: 1}, 0.0)
    outcome = Outcome(id=one.message.id, task=one.message.task, state=state, value=b"1", place=one.message.place)
    await crew.writer.write(crew.lease, [decide(Ending(delivery=one, outcome=outcome), 0.0, 3, 3600.0)], 0.0)


# --- Without a backend that keeps workflows -----------------------------------------------------------


def test_a_plain_chain_needs_no_backend(app: Celeriac) -> None:
    app._backend = OutcomesOnly(app.backend)
    result = chain(s(app, "add", 1), *[s(app, "add") for _ in range(9)]).delay()
    (message,) = [message for _, message, _ in app.broker.shared.messages.values()]  # type: ignore[attr-defined]
    assert message.place is None
    with running_worker(app):
        assert result.get(TIMEOUT) == 11
    assert result.root.get(TIMEOUT) == 2


def test_a_plain_chain_that_workers_would_refuse_is_refused(app: Celeriac) -> None:
    app._backend = OutcomesOnly(app.backend)
    steps = [s(app, "add") for _ in range(DEEPEST + 1)]
    with pytest.raises(MessageTooLarge, match=r"A chain of 52 tasks in one message: .* set `result_backend`"):
        chain(s(app, "add", 1), *steps).delay()
    result = chain(s(app, "add", 1), *steps[1:]).delay()
    with running_worker(app):
        assert result.get(TIMEOUT) == DEEPEST + 2


def test_what_needs_a_backend_is_refused_without_one(app: Celeriac) -> None:
    app._backend = OutcomesOnly(app.backend)
    for made in (chord([s(app, "add", 1)], s(app, "total")), s(app, "add", 1) | group(s(app, "add"))):
        with pytest.raises(WorkflowError, match="set `result_backend`"):
            made.delay()
    app.conf.message_max_bytes = 5000
    with pytest.raises(MessageTooLarge, match="A chain of 100 tasks"):
        chain(s(app, "add", 1), *[s(app, "add") for _ in range(99)]).delay()


# --- Bytes --------------------------------------------------------------------------------------------


def test_a_long_chain_is_linear_and_its_messages_small(app: Celeriac) -> None:
    sizes = {}
    for length in (100, 1000):
        app.workflows.send(chain(s(app, "add", 1), *[s(app, "add") for _ in range(length - 1)]), (), {}, {})
        store = app.broker.shared  # type: ignore[attr-defined]
        sizes[length] = sum(len(workflow.tree) for workflow in store.workflows.values())
        assert all(len(message.body) < 100 for _, message, _ in store.messages.values())
        store.workflows.clear()
    assert sizes[1000] < 11 * sizes[100]


def test_an_always_eager_app_runs_workflows_at_once(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(task_always_eager=True)

    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    result = (add.s(1) | group(add.s(1), add.s(2)) | add.map([1])).delay()
    assert result.get() == [2]
    assert result.parent.get() == [3, 4]
    assert asyncio.run((add.s(1) | add.s(5)).adelay()).get() == 7
    assert isinstance(result, AsyncResult)


def test_an_always_eager_app_runs_map_and_starmap_at_once(make_app: Callable[..., Celeriac]) -> None:
    app = make_app(task_always_eager=True)

    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    assert add.map([1, 2]).delay().get() == [2, 3]
    assert add.starmap([(1, 2)]).apply_async().get() == [3]
    assert asyncio.run(add.starmap([(3, 4)]).adelay()).get() == [7]
    assert add.map([5])() == [6]
