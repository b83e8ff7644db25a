"""What a task does from inside: its request, retries that change the call, states; functions called directly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from celeriac import Celeriac, Retry, Task, chain, current_request, group, states
from celeriac.errors import (
    ArgumentsError,
    CeleriacError,
    ImproperlyConfigured,
    MaxRetriesExceeded,
    UnknownOption,
    UnknownQueue,
)
from celeriac.model.arguments import Arguments
from celeriac.model.message import Message
from celeriac.tasks.execution import Executor
from celeriac.testing import running_worker
from tests.clock import FakeClock
from tests.patience import PATIENCE
from tests.promises.harness import Stage, get

MakeApp = Callable[..., Celeriac]


# --- Retries ------------------------------------------------------------------------------------------


def next_attempt(app: Celeriac, call: dict[str, Any], sent: dict[str, Any] | None = None, **options: Any) -> Message:
    """Return the message of the attempt that follows one of a task that calls `self.retry` with these arguments."""

    @app.task(bind=True, name="again", **options)
    def again(self: Task[..., Any], x: int = 0, *rest: int, y: int = 0) -> None:
        self.retry(**call)

    message = again.s(1, 2, y=3).message(**(sent or {}))
    outcome = Executor(app).run(message)
    assert outcome.state == states.RETRY, outcome.failure
    return outcome.next_attempt(message)


def arguments(message: Message) -> Any:
    return message.body.decode()


def test_a_retry_repeats_the_call(app: Celeriac) -> None:
    found = next_attempt(app, {}, {"headers": {"a": 1}, "priority": 7})
    assert (arguments(found), found.attempt, found.headers, found.priority) == ('[[1,2],{"y":3}]', 2, {"a": 1}, 7)


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ({"args": (5,)}, '[[5],{"y":3}]'),
        ({"args": []}, '[[],{"y":3}]'),
        ({"kwargs": {"y": 9}}, '[[1,2],{"y":9}]'),
        ({"kwargs": {"x": 9}}, "[[9,2],{}]"),
        ({"args": (5,), "kwargs": {}}, "[[5],{}]"),
        ({"args": None, "kwargs": None, "queue": None}, '[[1,2],{"y":3}]'),
    ],
    ids=str,
)
def test_a_retry_may_change_the_arguments(app: Celeriac, call: dict[str, Any], body: str) -> None:
    found = next_attempt(app, call)
    assert (arguments(found), found.attempt) == (body, 2)


def test_arguments_that_are_kept_give_way_to_new_ones_of_the_same_parameter() -> None:
    def function(a: int, b: int = 0, /, c: int = 0, *, d: int = 0) -> None: ...

    changed = Arguments(function, "f", False).changed
    assert changed(([1, 2], {"c": 3, "d": 4}), (7, 8, 9), None) == ([7, 8, 9], {"d": 4})
    assert changed(([1, 2, 3], {"d": 4}), None, {"c": 9, "d": 5}) == ([1, 2, 9], {"d": 5})
    assert changed(([1, 2, 3], {}), None, {}) == ([1, 2, 3], {})
    assert changed(([1], {}), (2,), None, 1) == ([2], {})


def test_a_retry_may_change_the_options(app: Celeriac, clock: FakeClock) -> None:
    app.conf.task_queues = ["slow"]
    eta = datetime(2040, 1, 1, tzinfo=UTC)
    found = next_attempt(app, {
        "queue": "slow", "priority": 1, "expires": eta, "headers": {"b": 2}, "soft_time_limit": 3, "time_limit": 4,
        "ignore_result": True, "acks_late": False,
    }, {"headers": {"a": 1, "b": 1}}, headers={"t": 1, "a": 0}, time_limit=60)  # fmt: skip
    assert (found.queue, found.priority, found.expires_at) == ("slow", 1, eta.timestamp())
    assert (found.headers, found.soft_time_limit, found.time_limit) == ({"t": 1, "a": 1, "b": 2}, 3.0, 4.0)
    assert (found.ignore_result, found.acks_late, arguments(found)) == (True, False, '[[1,2],{"y":3}]')


def test_a_retry_keeps_the_time_at_which_the_call_expires(make_app: MakeApp, clock: FakeClock) -> None:
    app = make_app(clock=clock)
    sent_at = clock.now()
    assert next_attempt(app, {"priority": 1}, expires=60).expires_at == sent_at + 60
    clock.advance(10)
    del app.tasks["again"]
    assert next_attempt(app, {"expires": 5}, {"expires": 60}).expires_at == clock.now() + 5


def test_a_retry_may_change_the_serializer(app: Celeriac) -> None:
    found = next_attempt(app, {"serializer": "pickle"})
    assert found.content_type == "application/x-python-pickle"
    assert found.body.startswith(b"\x80")


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        ({"que": "x"}, UnknownOption, "A retry has no option 'que'.*Did you mean 'queue'"),
        ({"task_id": "x"}, UnknownOption, "A retry has no option 'task_id'"),
        ({"queue": "nowhere"}, UnknownQueue, "nowhere"),
        ({"kwargs": {"z": 1}}, ArgumentsError, "z"),
        ({"soft_time_limit": 9}, ValueError, "soft_time_limit must not be above time_limit"),
    ],
    ids=str,
)
def test_a_retry_with_what_cannot_be_sent_fails_and_keeps_the_tasks_own_exception(
    app: Celeriac, call: dict[str, Any], error: type[Exception], match: str
) -> None:
    @app.task(bind=True, time_limit=5)
    def again(self: Task[..., Any], x: int = 0) -> None:
        try:
            raise OSError("the reason")
        except OSError as reason:
            self.retry(exc=reason, **call)

    result = again.apply()
    with pytest.raises(error, match=match):
        result.get()
    assert "OSError: the reason" in str(result.traceback)


@pytest.mark.parametrize("lane", ["plain", "coroutine"])
@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_a_retry_that_is_not_thrown_follows_however_the_attempt_ends(app: Celeriac, lane: str, ends: str) -> None:
    went_on: list[int] = []

    def body(self: Task[..., Any], x: int) -> int:
        if x < 3:
            retry = self.retry(args=(x + 1,), countdown=0, exc=OSError("no"), throw=False)
            assert isinstance(retry, Retry)
            went_on.append(x)
            if ends == "raises":
                raise ValueError
        return x

    async def abody(self: Task[..., Any], x: int) -> int:
        return body(self, x)

    task: Any = app.task(bind=True, name="t")(abody if lane == "coroutine" else body)
    assert task.apply((1,)).get() == 3
    with running_worker(app):
        assert task.delay(1).get(timeout=PATIENCE) == 3
    assert went_on == [1, 2, 1, 2]


def test_a_retry_that_is_not_thrown_raises_when_none_is_left(app: Celeriac) -> None:
    @app.task(bind=True, max_retries=0)
    def again(self: Task[..., Any]) -> None:
        with pytest.raises(self.MaxRetriesExceededError):
            self.retry(throw=False)
        raise MaxRetriesExceeded("enough")

    with pytest.raises(MaxRetriesExceeded, match="enough"):
        again.apply().get()


def test_a_changed_retry_of_a_step_stays_in_its_workflow(app: Celeriac) -> None:
    @app.task(bind=True)
    def step(self: Task[..., Any], x: int) -> int:
        if not self.request.retries:
            self.retry(args=(x * 10,), countdown=0, headers={"again": 1})
        assert self.request.headers == {"again": 1}
        return x + 1

    with running_worker(app):
        assert chain(step.s(1), step.s()).delay().get(timeout=PATIENCE) == 111
        assert (group(step.s(1), step.s(2)) | app.task(name="sum")(sum).s()).delay().get(timeout=PATIENCE) == 32


def test_an_error_callback_may_change_its_own_arguments(app: Celeriac) -> None:
    told: list[Any] = []

    @app.task(bind=True)
    def tell(self: Task[..., Any], request: Any, error: BaseException, traceback: str, label: str, y: int = 0) -> None:
        if not self.request.retries:
            self.retry(args=("changed",), kwargs={"y": 1}, countdown=0)
        told.append((request.id, repr(error), label, y))

    fail = app.task(name="fail")(lambda: 1 / 0)
    fail.apply(task_id="i", link_error=tell.s("first"))
    assert told == [("i", "ZeroDivisionError('division by zero')", "changed", 1)]


CHANGES_QUEUE = """
@app.task(bind=True)
def moves(self, where):
    if self.request.queue != "other":
        self.retry(args=[where + 1], queue="other", countdown=0.01, headers={"moved": True})
    return [where, self.request.queue, self.request.headers, self.request.retries]
"""


def test_a_worker_retries_a_task_in_another_queue_with_other_arguments(stage: Stage) -> None:
    with (stage.folder / "victim.py").open("a") as module:
        module.write(CHANGES_QUEUE)
    stage.worker("-c", "1")
    assert get(stage.app.send_task("victim.moves", (1,))) == [2, "other", {"moved": True}, 1]


# --- Requests -----------------------------------------------------------------------------------------


def test_a_request_has_the_attributes_of_celerys(app: Celeriac) -> None:
    other = app.task(name="other")(lambda *args: None)

    @app.task(bind=True, soft_time_limit=4, time_limit=5)
    def tell(self: Task[..., Any]) -> dict[str, Any]:
        request = self.request
        assert request is current_request()
        names = ("called_directly", "correlation_id", "group", "taskset", "hostname", "is_eager", "ignore_result",
                 "name", "soft_time_limit", "time_limit", "reply_to", "utc", "logfile", "loglevel", "origin", "shadow",
                 "errbacks", "properties")  # fmt: skip
        assert [link.message.task for link in request.callbacks or ()] == ["other"]
        assert request.get("id") == request.id
        assert request.get("mine") == 1
        assert request.get("chord") is None
        return {name: getattr(request, name) for name in names}

    found = tell.apply(task_id="i", headers={"mine": 1}, link=other.s()).get()
    assert found == {
        "called_directly": False, "correlation_id": "i", "group": None, "taskset": None, "hostname": "eager",
        "is_eager": True, "ignore_result": False, "name": tell.name, "soft_time_limit": 4.0, "time_limit": 5.0,
        "reply_to": None, "utc": True, "logfile": None, "loglevel": None, "origin": None, "shadow": None,
        "errbacks": None, "properties": {"correlation_id": "i", "reply_to": None, "priority": 5},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("redelivered", "delivery_info"),
        ("chord", r"app\.workflow\(id\)"),
        ("stamps", "`headers`"),
        ("children", r"AsyncResult\.children"),
    ],
)
def test_an_attribute_of_celerys_request_without_a_counterpart_says_so(app: Celeriac, name: str, instead: str) -> None:
    task = app.task(name="t")(lambda: None)
    assert not hasattr(task.request, name)
    with pytest.raises(AttributeError, match=f"A request has no '{name}' in Celeriac: .*{instead}"):
        getattr(task.request, name)


# --- Called directly ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["plain", "coroutine"])
def test_a_bound_task_can_be_called_as_a_function(app: Celeriac, lane: str) -> None:
    def body(self: Task[..., Any], x: int) -> Any:
        self.progress(1, 2)
        self.update_state(state="SPINNING", meta={"x": x})
        request = self.request
        return [x, request.called_directly, request.id, request.root_id, request.retries, request.is_eager,
                request.args, request.headers, request.group, request.hostname, request.blocks_child]  # fmt: skip

    async def abody(self: Task[..., Any], x: int) -> Any:
        return body(self, x)

    task: Any = app.task(bind=True, name="t")(abody if lane == "coroutine" else body)
    found = asyncio.run(task(1)) if lane == "coroutine" else task(1)
    assert found == [1, True, None, None, 0, False, [], {}, None, "", False]
    assert "called directly" in repr(task.request)
    assert current_request() is None


def test_a_function_that_is_called_directly_raises_its_own_exception_and_not_a_retry(app: Celeriac) -> None:
    @app.task(bind=True)
    def again(self: Task[..., Any], how: str) -> None:
        try:
            if how == "handled":
                raise OSError("handled")
        except OSError:
            self.retry()
        self.retry(exc=ValueError("given")) if how == "given" else self.retry()

    with pytest.raises(OSError, match="handled"):
        again("handled")
    with pytest.raises(ValueError, match="given"):
        again("given")
    with pytest.raises(Retry, match="asked for a retry, but was called directly"):
        again("nothing")


def test_a_state_that_a_worker_would_refuse_is_refused_in_a_direct_call(app: Celeriac) -> None:
    task = app.task(name="t")(lambda: None)
    with pytest.raises(ValueError, match="Only Celeriac sets the state 'SUCCESS'"):
        task.update_state("SUCCESS")
    with pytest.raises(CeleriacError, match=r"there is no task to replace\. In a test, run it with \.apply\(\)"):
        task.replace(task.s())


def test_a_task_that_another_calls_directly_has_no_request_of_its_own(app: Celeriac) -> None:
    inner = app.task(bind=True, name="inner")(lambda self: [self.request.id, self.request.called_directly])

    @app.task(bind=True, name="outer")
    def outer(self: Task[..., Any]) -> Any:
        return [self.request.id, inner(), inner.apply(task_id="j").get()]

    assert outer.apply(task_id="i").get() == ["i", [None, True], ["j", False]]


def test_a_task_sets_no_state_but_its_own(app: Celeriac) -> None:
    @app.task(bind=True)
    def tell(self: Task[..., Any], how: str) -> None:
        if how == "own":
            self.update_state(state="SPINNING", meta=1, task_id=self.request.id)
        elif how == "other":
            self.update_state("SPINNING", task_id="other")
        else:
            self.update_state(self.request.id, "SPINNING")

    tell.apply(("own",)).get()
    for how in ("other", "first"):
        with pytest.raises(ValueError, match="A task sets its own state alone"):
            tell.apply((how,)).get()


# --- Time limits --------------------------------------------------------------------------------------

ABOVE = "soft_time_limit must not be above .*time_limit: after 5 s the attempt is ended, .* after 9 s"


def test_a_soft_time_limit_above_the_hard_one_is_refused_where_it_is_written(make_app: MakeApp) -> None:
    app = make_app(task_queues=["other"])
    with pytest.raises(ValueError, match=ABOVE):
        app.task(soft_time_limit=9, time_limit=5)(lambda: None)
    with pytest.raises(ValueError, match=ABOVE):
        app.task(base=type("Base", (Task,), {"soft_time_limit": 9}), time_limit=5)(lambda: None)
    plain = app.task(name="plain")(lambda: None)
    for call in (plain.apply_async, plain.apply, plain.s().set, plain.signature):
        with pytest.raises(ValueError, match=ABOVE):
            call(soft_time_limit=9, time_limit=5)
    with pytest.raises(ValueError, match=ABOVE):
        app.send_task("elsewhere", soft_time_limit=9, time_limit=5)
    hard = app.task(name="hard", time_limit=5)(lambda: None)
    for send in (hard.apply_async, hard.s().apply_async, hard.s().delay, group(hard.s()).apply_async):
        with pytest.raises((ValueError, TypeError), match=f"hard: {ABOVE}|unexpected keyword"):
            send(soft_time_limit=9)  # type: ignore[operator]
    with pytest.raises(ValueError, match=f"hard: {ABOVE}"):
        hard.delay_many([()], soft_time_limit=9)
    soft = app.task(name="soft", soft_time_limit=9)(lambda: None)
    with pytest.raises(ValueError, match=f"soft: {ABOVE}"):
        soft.apply_async(time_limit=5)
    soft.apply_async(time_limit=9)
    soft.apply_async(time_limit=None)
    hard.apply_async(soft_time_limit=9, time_limit=None)


def test_a_soft_time_limit_above_the_hard_one_of_the_settings_is_refused(make_app: MakeApp) -> None:
    match = f"task_{ABOVE}"
    with pytest.raises(ImproperlyConfigured, match=match):
        make_app(task_soft_time_limit=9, task_time_limit=5)
    with pytest.raises(ImproperlyConfigured, match=match):
        make_app(task_soft_time_limit=9, environ={"CELERIAC_TASK_TIME_LIMIT": "5"})
    app = make_app(task_time_limit=5)
    with pytest.raises(ImproperlyConfigured, match=match):
        app.conf.task_soft_time_limit = 9
    with pytest.raises(ImproperlyConfigured, match=match):
        app.conf.update(task_soft_time_limit=9)
    assert app.conf.task_soft_time_limit is None
    app.conf.update(task_soft_time_limit=9, task_time_limit=10)
    app.conf.update(task_soft_time_limit=None, task_time_limit=5)
    task = app.task(name="soft", soft_time_limit=9)(lambda: None)
    with pytest.raises(ValueError, match=f"soft: {ABOVE}"):
        task.delay()


def test_a_soft_time_limit_above_the_hard_one_is_refused_by_a_worker(stage: Stage) -> None:
    stage.worker("-c", "1")
    with pytest.raises(ValueError, match="soft_time_limit must not be above time_limit"):
        asyncio.run(stage.inspector().time_limit("victim.plain", 9, 5))
    answers = asyncio.run(stage.inspector().order("time_limit", {"task": "victim.plain", "soft": 9, "hard": 5}))
    (error,) = answers.errors.values()
    assert str(error).startswith("victim.plain: soft_time_limit must not be above time_limit")
