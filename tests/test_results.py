"""Signatures, groups, maps, and the results that come back."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from celeriac import AsyncResult, Celeriac, GroupResult, Task, TaskRevoked, group, states
from celeriac.errors import ArgumentsError, NotRegistered, ResultIgnored, ResultTimeout, UnknownOption, WaitInTask
from celeriac.model.failure import Failure
from celeriac.model.outcome import Outcome
from celeriac.model.serialization import dumps
from celeriac.progress import track
from celeriac.tasks.signature import Signature
from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.worker_loop import working

TIMEOUT = PATIENCE


@pytest.fixture
def add(app: Celeriac) -> Task[..., int]:
    @app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return add


@pytest.fixture
def worker(app: Celeriac, add: Task[..., int]) -> Iterator[None]:
    app.task(name="divide")(lambda x, y: x / y)
    with working(app):
        yield


def body(signature: Signature[Any], *args: Any, **kwargs: Any) -> Any:
    return json.loads(signature.message(args, kwargs).body)


# --- Signatures ---------------------------------------------------------------------------------------


def test_arguments_given_later_go_before_a_partials_own(add: Task[..., int]) -> None:
    assert body(add.s(2), 1) == [[1, 2], {}]
    assert body(add.s(1, y=2), y=3) == [[1], {"y": 3}]
    assert add.s(2).apply((1,)).get() == 3
    assert add.s(2)(1) == 3


def test_an_immutable_signature_takes_nothing(add: Task[..., int]) -> None:
    assert body(add.si(1, 2), 9, y=9) == [[1, 2], {}]
    assert body(add.s(1).set(immutable=True), 9) == [[1], {}]


def test_a_partial_may_lack_arguments_until_it_is_called(add: Task[..., int]) -> None:
    partial = add.s()
    with pytest.raises(ArgumentsError):
        partial.delay()
    with pytest.raises(ArgumentsError):
        partial.apply()
    assert partial.apply((1,)).get() == 1


def test_a_clone_is_apart_from_its_original(add: Task[..., int]) -> None:
    original = add.s(2).set(priority=3)
    clone = original.clone((1,), priority=9).set(countdown=5)
    clone.link(add.s())
    assert (original.args, original.options) == ((2,), {"priority": 3})
    assert (clone.args, clone.options["priority"], clone.options["countdown"]) == ((1, 2), 9, 5.0)


def test_a_signature_is_carried_through_json(app: Celeriac, add: Task[..., int]) -> None:
    signature = add.s(1).set(priority=9).link(add.s(10)).link(add.si(5, 5)).link_error(add.si(0))
    carried = app.signature(json.loads(json.dumps(signature.to_dict())))
    assert carried == signature
    message = carried.message((3,))
    assert [link.immutable for link in message.link] == [False, True]
    assert [link.message.task for link in message.link_error] == ["add"]
    assert message.link[0].message.id != message.link[1].message.id


def test_a_signature_with_instants_is_carried_through_json(app: Celeriac, add: Task[..., int]) -> None:
    soon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    linked = add.s(1).link(add.s().set(eta=soon))
    for original in (add.s(1).set(eta=soon, expires=soon), group(linked).set(expires=soon)):
        carried = app.signature(json.loads(json.dumps(original.to_dict())))
        assert carried == original
    assert carried.options == {"expires": soon}
    assert carried.tasks[0].message().link[0].message.due_at == soon.timestamp()


def test_a_link_that_is_no_signature_is_refused(add: Task[..., int]) -> None:
    with pytest.raises(UnknownOption, match="link must be signatures"):
        add.apply_async((1,), link=[3])


def test_a_signature_of_a_task_that_is_not_registered_can_be_sent_but_not_applied(app: Celeriac) -> None:
    signature = app.signature("elsewhere", (1,), priority=2)
    assert signature.message().priority == 2
    with pytest.raises(NotRegistered, match="elsewhere"):
        signature.apply()
    assert repr(app.signature("t", (1,), {"k": "v"})) == "t(1, k='v')"


def test_a_wrong_option_is_refused_where_it_is_set(app: Celeriac, add: Task[..., int]) -> None:
    for attempt in (
        lambda: add.s().set(priorty=1),
        lambda: add.signature(priorty=1),
        lambda: app.signature("x", priorty=1),
        lambda: add.s().clone(priorty=1),
    ):
        with pytest.raises(UnknownOption, match="Did you mean 'priority'"):
            attempt()


# --- Groups -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_a_groups_result_is_a_list_in_its_order(add: Task[..., int]) -> None:
    assert group(add.s(i, i) for i in range(5)).delay().get(TIMEOUT) == [0, 2, 4, 6, 8]
    assert group(add.s(1), add.s(2)).delay().get(TIMEOUT) == [1, 2]
    assert group([add.s(1)]).delay().get(TIMEOUT) == [1]
    assert group(add.s(1)).delay().get(TIMEOUT) == [1]


def test_an_empty_group_is_an_empty_list() -> None:
    result = group().delay()
    assert (result.get(), list(result), len(result)) == ([], [], 0)
    assert result.ready()
    assert result.successful()
    result.forget()
    result.revoke()


@pytest.mark.usefixtures("worker")
async def test_a_group_can_be_awaited(add: Task[..., int]) -> None:
    result = await group(add.s(i) for i in range(5)).adelay()
    assert await result.aget(TIMEOUT) == [0, 1, 2, 3, 4]
    assert await result == [0, 1, 2, 3, 4]
    assert sorted([await item async for item in result.aas_completed(TIMEOUT)]) == [0, 1, 2, 3, 4]


def test_a_groups_results_are_gone_through_in_its_order_whichever_comes_first(add: Task[..., int]) -> None:
    result = group(add.s(i) for i in range(3)).delay()
    for number in (2, 0, 1):
        store(result[number], states.SUCCESS, value=dumps(number))
    assert [(number, item.get(TIMEOUT)) for number, item in zip(range(3), result, strict=True)] == [
        (0, 0), (1, 1), (2, 2)
    ]  # fmt: skip
    assert list(result) == [result[0], result[1], result[2]] == result.results
    assert sorted(item.get() for item in result.as_completed(TIMEOUT)) == [0, 1, 2]


@pytest.mark.usefixtures("worker")
def test_one_error_of_a_group_does_not_hide_the_rest(app: Celeriac) -> None:
    divide = app.tasks["divide"]
    result = group(divide.s(6, y) for y in (1, 0, 3)).delay()
    with pytest.raises(ZeroDivisionError):
        result.get(TIMEOUT)
    values = result.get(TIMEOUT, propagate=False)
    assert (values[0], type(values[1]), values[2]) == (6.0, ZeroDivisionError, 2.0)
    assert (result.completed_count(), result.failed(), result.successful(), result.waiting()) == (3, True, False, False)
    assert {item.state for item in result.as_completed(TIMEOUT)} == {states.SUCCESS, states.FAILURE}


def test_the_messages_of_a_group_share_its_id_and_its_options(app: Celeriac, add: Task[..., int]) -> None:
    result = group(add.s(1), add.s(2).set(priority=1)).apply_async(priority=8, task_id="the-group")
    messages = app.broker.complete(app.broker.operations().peek("default", 10))
    assert [(message.group_id, message.priority) for message in messages] == [("the-group", 8)] * 2
    assert [message.id for message in messages] == [item.id for item in result.results]
    assert result.id == "the-group"


def test_nothing_of_a_group_is_sent_when_one_call_is_wrong(app: Celeriac, add: Task[..., int]) -> None:
    with pytest.raises(ArgumentsError):
        group(add.s(1), add.s(1, 2, 3)).delay()
    assert app.broker.complete(app.broker.operations().queues()) == []
    with pytest.raises(TypeError, match="group needs signatures"):
        group(add, add)  # type: ignore[arg-type]


def test_a_group_without_a_worker_times_out_and_says_how_many_are_missing(add: Task[..., int]) -> None:
    with pytest.raises(ResultTimeout, match="2 of 2 tasks have no result"):
        group(add.s(1), add.s(2)).delay().get(0.01)


def test_a_group_is_applied_here_and_now(add: Task[..., int]) -> None:
    result = group(add.s(i) for i in range(3)).apply()
    assert (result.get(), result.completed_count()) == ([0, 1, 2], 3)


def test_a_group_that_is_run_here_keeps_its_options_and_its_id(make_app: Callable[..., Celeriac]) -> None:
    for eager in (True, False):
        app = make_app(task_always_eager=eager, task_queues=["other"])

        @app.task(name="about", bind=True)
        def about(self: Task[..., Any]) -> Any:
            assert self.request.group == self.request.group_id
            return [self.request.id, self.request.group_id, self.request.priority, self.request.queue]

        whole = group(about.s().set(task_id="one", priority=1), about.s().set(priority=2), queue="other")
        send = whole.apply_async if eager else whole.apply
        result = send(task_id="the-group")
        assert result.get() == [["one", "the-group", 1, "other"], [result[1].id, "the-group", 2, "other"]]
        assert result.id == "the-group"


@pytest.mark.usefixtures("worker")
def test_revoked_members_of_a_group_are_revoked_while_they_wait(add: Task[..., int]) -> None:
    result = group(add.s(i) for i in range(3)).apply_async(countdown=3600)
    result.revoke()
    with pytest.raises(TaskRevoked):
        result.get(TIMEOUT)
    assert [item.state for item in result.results] == [states.REVOKED] * 3


# --- Maps ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_a_map_yields_in_order_and_leaves_nothing_behind(app: Celeriac, add: Task[..., int]) -> None:
    assert list(app.map(add, range(50), window=8)) == list(range(50))
    assert list(app.map(add, [])) == []
    assert app.broker.complete(app.backend.recent(100)) == []


@pytest.mark.usefixtures("worker")
def test_a_map_takes_no_more_of_an_endless_iterable_than_its_window(app: Celeriac, add: Task[..., int]) -> None:
    taken = itertools.count()
    results = app.map(add, taken, window=10)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert next(taken) <= 25


@pytest.mark.usefixtures("worker")
def test_an_exception_in_a_map_is_raised_in_its_turn_or_yielded(app: Celeriac) -> None:
    @app.task(name="half")
    def half(x: int) -> float:
        return 1 / x

    with pytest.raises(ZeroDivisionError):
        list(app.map(half, [1, 0, 2]))
    found = list(app.map(half, [1, 0, 2], return_exceptions=True))
    assert (found[0], type(found[1]), found[2]) == (1.0, ZeroDivisionError, 0.5)
    with pytest.raises(ValueError, match="window"):
        list(app.map(half, [1], window=0))


def test_a_map_says_what_it_takes(app: Celeriac, add: Task[..., int]) -> None:
    for map_ in (app.map, app.amap):
        with pytest.raises(TypeError, match=r"app\.map\(add, \[1, 2\]\), not 'add' as the task.* use a group"):
            map_("add", [1])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"not .*add\(1\) as the task"):
            map_(add.s(1), [1])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not 3 as the items: they must be iterable"):
            map_(add, 3)  # type: ignore[arg-type]


@pytest.mark.usefixtures("worker")
async def test_a_map_can_be_iterated_by_a_coroutine(app: Celeriac, add: Task[..., int]) -> None:
    assert [value async for value in app.amap(add, range(20), window=4)] == list(range(20))


# --- Results ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_a_result_is_got_from_a_worker(app: Celeriac, add: Task[..., int]) -> None:
    result = add.delay(2, y=2)
    assert result.get(TIMEOUT) == 4
    assert (result.state, result.result, result.info, result.traceback) == (states.SUCCESS, 4, 4, None)
    again = app.AsyncResult(result.id)
    assert again == result
    assert {again, result} == {result}
    assert again.get() == 4
    result.forget()
    assert (result.state, result.result) == (states.PENDING, None)


@pytest.mark.usefixtures("worker")
async def test_a_result_can_be_awaited(app: Celeriac, add: Task[..., int]) -> None:
    @app.task
    async def slow(x: int) -> int:
        await asyncio.sleep(0)
        return x

    assert await (await add.adelay(1)) == 1
    assert await (await slow.adelay(2)).aget(TIMEOUT) == 2
    assert await (await add.s(3).aapply_async(priority=9)) == 3
    assert [await item for item in await add.adelay_many([(4,), {"x": 5}])] == [4, 5]
    assert await (await app.asend_task("add", (6,))) == 6


@pytest.mark.usefixtures("worker")
def test_a_task_that_is_retried_by_a_worker_ends_well(app: Celeriac) -> None:
    @app.task(bind=True, autoretry_for=OSError)
    def flaky(self: Task[..., Any]) -> int:
        if self.request.attempt < 3:
            raise OSError
        return self.request.attempt

    assert flaky.delay().get(TIMEOUT) == 3


def test_a_result_that_does_not_come_times_out_with_the_state_and_the_next_step(add: Task[..., int]) -> None:
    result = add.delay(1)
    with pytest.raises(ResultTimeout, match=r"after 0.01 s; its state is PENDING\. Is a worker .*celeriac explain"):
        result.get(timeout=0.01)
    with pytest.raises(ResultTimeout):
        result.get(timeout=0)
    with pytest.raises(TimeoutError):
        asyncio.run(result.aget(timeout=0.01))


def test_a_timeout_of_a_task_that_this_app_does_not_have_names_the_nearest_and_where_modules_are_named(
    app: Celeriac, add: Task[..., int]
) -> None:
    result = app.send_task(add.name + "d", (1,))
    with pytest.raises(ResultTimeout, match=rf"no task of that name\. Did you mean '{add.name}'\?.* setting `imports`"):
        result.get(timeout=0.01)


def test_a_timeout_is_seconds_or_a_timedelta(add: Task[..., int]) -> None:
    soon, one, many = timedelta(seconds=0.01), add.delay(1), group(add.s(1), add.s(2)).delay()
    for wait in (
        lambda timeout: one.get(timeout=timeout),
        lambda timeout: asyncio.run(one.aget(timeout=timeout)),
        lambda timeout: many.get(timeout=timeout),
        lambda timeout: asyncio.run(many.aget(timeout=timeout)),
        lambda timeout: list(many.as_completed(timeout)),
        lambda timeout: list(one.collect(timeout)),
        lambda timeout: list(track(many, timeout=timeout)),
    ):
        with pytest.raises(ResultTimeout, match=r"no result after 0.01 s"):
            wait(soon)
        with pytest.raises(TypeError, match=r"timeout must be seconds \(a number\) or a timedelta, not '5'"):
            wait("5")


def store(result: AsyncResult[Any], state: str, **fields: Any) -> None:
    outcome = Outcome(id=result.id, task="add", state=state, **fields)
    asyncio.run(result.app.backend.store([outcome]))


@pytest.mark.parametrize("id", [None, "", 3, uuid4(), b"id"], ids=lambda id: type(id).__name__)
def test_an_id_that_is_no_string_is_refused(app: Celeriac, add: Task[..., int], id: Any) -> None:
    for make in (app.AsyncResult, add.AsyncResult, AsyncResult):
        with pytest.raises(TypeError, match="The id of a task must be a non-empty string, not"):
            make(id)


def test_the_state_of_a_result_is_what_the_backend_knows(add: Task[..., int]) -> None:
    result = add.delay(1)
    assert (result.state, result.ready(), result.info, result.exists()) == (states.PENDING, False, None, True)
    store(result, states.STARTED)
    assert (result.state, result.ready()) == (states.STARTED, False)
    store(result, states.PROGRESS, value=dumps({"done": 1, "total": 2}))
    assert (result.state, result.info, result.result) == (states.PROGRESS, {"done": 1, "total": 2}, result.info)
    store(result, states.RETRY, failure=Failure.of(OSError("again")))
    assert (result.state, type(result.info), type(result.result)) == (states.RETRY, OSError, OSError)
    store(result, states.REVOKED)
    assert (result.state, result.ready(), type(result.result)) == (states.REVOKED, True, TaskRevoked)
    with pytest.raises(TaskRevoked):
        result.get()


def test_an_ignored_task_has_ended_without_a_value(add: Task[..., int]) -> None:
    result = add.delay(1)
    store(result, states.IGNORED)
    assert (result.get(), result.ready(), result.successful()) == (None, True, False)


def test_waiting_inside_a_plain_task_is_refused_and_awaiting_in_a_coroutine_task_is_not(
    app: Celeriac, add: Task[..., int]
) -> None:
    @app.task
    def plain() -> None:
        add.delay(1).get()

    @app.task
    def grouped() -> None:
        group(add.s(1)).delay().get()

    @app.task
    def mapped() -> None:
        next(app.map(add, [1]))

    @app.task
    async def coroutine() -> int:
        return await (await add.adelay(1)).aget(TIMEOUT)

    with working(app):
        for task in (plain, grouped, mapped):
            with pytest.raises(WaitInTask, match="async def"):
                task.delay().get(TIMEOUT)
    with working(app), working(app):
        assert coroutine.delay().get(TIMEOUT) == 1


WAITS: dict[str, Callable[[Any], Any]] = {
    "get": lambda task: task.delay(1).get(),
    "get of a group": lambda task: group(task.s(1)).delay().get(),
    "join": lambda task: group(task.s(1)).delay().join(),
    "as completed": lambda task: next(group(task.s(1)).delay().as_completed()),
    "map": lambda task: list(task.app.map(task, [1])),
    "collect": lambda task: list(task.delay(1).collect()),
}


@pytest.mark.parametrize("way", WAITS)
def test_no_task_may_block_while_it_waits_nor_what_it_applies(app: Celeriac, add: Task[..., int], way: str) -> None:
    @app.task
    def plain() -> None:
        WAITS[way](add)

    @app.task
    async def coroutine() -> None:
        WAITS[way](add)

    @app.task
    def applies() -> None:
        plain.apply().get()

    @app.task
    async def coroutine_applies() -> None:
        plain.apply().get()

    with working(app):
        for task in (plain, coroutine, applies, coroutine_applies):
            with pytest.raises(WaitInTask):
                task.delay().get(TIMEOUT)


@pytest.mark.parametrize("way", WAITS)
def test_a_task_that_is_applied_outside_of_a_worker_may_wait(app: Celeriac, add: Task[..., int], way: str) -> None:
    @app.task
    def plain() -> None:
        WAITS[way](add)

    with working(app):
        assert plain.apply().get() is None


def test_a_result_says_what_it_is(make_app: Callable[..., Celeriac], clock: FakeClock) -> None:
    app = make_app(clock=clock)
    result = app.task(name="t")(lambda: 1).apply_async(task_id="abc")
    assert (str(result), repr(result)) == ("abc", "<AsyncResult t[abc]>")
    assert "1 task" in repr(app)


def test_a_result_that_is_not_kept_is_not_waited_for(app: Celeriac) -> None:
    @app.task(ignore_result=True)
    def quiet() -> int:
        return 1

    assert quiet.delay().get() is None
    assert asyncio.run(quiet.delay().aget()) is None


@pytest.mark.usefixtures("worker")
async def test_a_map_over_a_task_that_keeps_no_results_yields_them(app: Celeriac) -> None:
    @app.task(name="quiet", ignore_result=True)
    def quiet(x: int) -> int:
        return x + 1

    assert list(app.map(quiet, range(5))) == [1, 2, 3, 4, 5]
    assert [value async for value in app.amap(quiet, range(5))] == [1, 2, 3, 4, 5]
    assert app.broker.complete(app.backend.recent(100)) == []


async def test_the_ends_of_calls_that_are_not_kept_cannot_be_waited_for(app: Celeriac) -> None:
    @app.task(name="quiet", ignore_result=True)
    def quiet(x: int) -> int:
        return x + 1

    whole = GroupResult("whole", quiet.delay_many([(1,), (2,)]))
    with pytest.raises(ResultIgnored, match=r"quiet\[.*ignore_result=False"):
        whole.get(TIMEOUT)
    with pytest.raises(ResultIgnored):
        await whole.aget(TIMEOUT)
    with pytest.raises(ResultIgnored):
        next(whole.as_completed(TIMEOUT))
    assert not whole.ready()


@pytest.mark.usefixtures("worker")
def test_a_group_of_tasks_that_keep_no_results_ends(app: Celeriac) -> None:
    quiet = app.task(name="quiet", ignore_result=True)(lambda x: x)
    assert group(quiet.s(1), quiet.s(2)).delay().get(TIMEOUT) == [None, None]


def test_a_group_can_be_called(add: Task[..., int], worker: None) -> None:
    assert group(add.s(1, 1), add.s(2, 2))().get(timeout=PATIENCE) == [2, 4]
