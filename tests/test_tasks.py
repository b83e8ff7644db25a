"""From a call to a message, and a task run here and now: options, retries, endings, shared tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from celeriac import (
    Celeriac,
    Ignore,
    Reject,
    RemoteError,
    Retry,
    Task,
    chain,
    current_app,
    current_request,
    group,
    shared_task,
    signals,
    states,
)
from celeriac.errors import (
    ArgumentsError,
    EncodeError,
    ImproperlyConfigured,
    MaxRetriesExceeded,
    MessageTooLarge,
    NotRegistered,
    TaskRevoked,
    UnknownOption,
    UnknownQueue,
)
from celeriac.model.message import COROUTINE, PLAIN, Message, decode, encode
from celeriac.model.options import CALL_OPTIONS
from celeriac.tasks.execution import Executor
from tests.clock import FakeClock

MakeApp = Callable[..., Celeriac]


# --- Messages -----------------------------------------------------------------------------------------


def test_the_call_beats_the_route_and_the_route_the_task_and_the_task_the_settings(make_app: MakeApp) -> None:
    app = make_app(
        task_default_queue="of-settings", task_default_priority=1, task_time_limit=10, task_acks_late=False,
        task_routes={"routed": {"queue": "of-route", "priority": 3}}, task_queues=["of-call"],
    )  # fmt: skip

    def function() -> None: ...

    bare = app.task(name="bare")(function)
    own = app.task(name="own", queue="of-task", priority=2, time_limit=20, acks_late=True)(function)
    routed = app.task(name="routed", queue="of-task", priority=2, time_limit=timedelta(seconds=30))(function)

    def seen(task: Task[..., Any], **options: Any) -> tuple[Any, ...]:
        message = task.signature(**options).message()
        return message.queue, message.priority, message.time_limit, message.acks_late

    assert seen(bare) == ("of-settings", 1, 10.0, False)
    assert seen(own) == ("of-task", 2, 20.0, True)
    assert seen(routed) == ("of-route", 3, 30.0, False)
    assert seen(routed, queue="of-call", priority=4, time_limit=None, acks_late=True) == ("of-call", 4, None, True)


def test_times_of_a_call_become_instants(make_app: MakeApp, clock: FakeClock) -> None:
    app = make_app(clock=clock)
    task = app.task(name="t", expires=60)(lambda: None)
    now = clock.now()
    assert (task.s().message().due_at, task.s().message().expires_at) == (None, now + 60)
    message = task.s().set(countdown=timedelta(minutes=1), expires=90).message()
    assert (message.sent_at, message.due_at, message.expires_at) == (now, now + 60, now + 90)
    when = datetime(2030, 1, 1, tzinfo=UTC)
    message = task.s().set(eta=when, expires=when).message()
    assert (message.due_at, message.expires_at) == (when.timestamp(), when.timestamp())


@pytest.mark.parametrize("countdown", [-3, timedelta(minutes=-1)])
def test_a_countdown_that_has_passed_means_now(app: Celeriac, countdown: Any) -> None:
    task = app.task(name="t")(lambda: None)
    message = decode(encode(task.s().set(countdown=countdown, link=task.si().set(countdown=countdown)).message()))
    assert message.due_at is None
    assert message.link[0].message.due_at is None


@pytest.mark.parametrize("countdown", [-5, timedelta(minutes=-1), -1e-9])
def test_a_countdown_below_zero_is_over(app: Celeriac, countdown: Any) -> None:
    @app.task(bind=True)
    def again(self: Task[..., Any], **options: Any) -> None:
        self.retry(countdown=countdown, **options)

    message = again.s().set(countdown=countdown).message()
    assert (message.due_at, message.countdown) == (None, None)
    assert Executor(app).run(again.s().message()).retry_delay == 0
    [moved] = Executor(app).run(again.s(priority=1).message()).following or []
    assert (moved.due_at, moved.countdown) == (None, None)


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 1e300}, {"countdown": 10**400}, {"countdown": timedelta.max}, {"expires": 1e12},
        {"eta": datetime.max.replace(tzinfo=UTC)}, {"expires": datetime.max.replace(tzinfo=UTC)}, {"expires": -1},
    ],
)  # fmt: skip
def test_a_time_of_a_call_that_no_calendar_has_is_refused(app: Celeriac, options: Any) -> None:
    task = app.task(name="t")(lambda: None)
    [name] = options
    for attempt in (task.apply_async, task.s().set):
        with pytest.raises(ValueError, match=f"{name} must be"):
            attempt(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"expires": -5}, {"retry_backoff": None}, {"retry_backoff": -1}, {"retry_backoff_max": None},
        {"retry_backoff_max": -1}, {"default_retry_delay": 1e300}, {"time_limit": -1},
        {"time_limit": 0}, {"soft_time_limit": timedelta()},
    ],
)  # fmt: skip
def test_a_duration_of_a_task_that_makes_no_sense_is_refused(app: Celeriac, options: Any) -> None:
    [name] = options
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        app.task(name="t", **options)(lambda: None)


def test_headers_of_a_call_add_to_the_tasks(app: Celeriac) -> None:
    task = app.task(name="t", headers={"a": 1, "b": 1})(lambda: None)
    assert task.s().set(headers={"b": 2}).message().headers == {"a": 1, "b": 2}


def test_a_queue_that_nothing_declares_is_refused_with_the_nearest(app: Celeriac) -> None:
    task = app.task(name="t", queue="mail")(lambda: None)
    with pytest.raises(UnknownQueue, match=r"'mial' is declared. Did you mean 'mail'.*task_queues") as caught:
        task.apply_async(queue="mial")
    assert caught.value.queue == "mial"
    app.conf.task_create_missing_queues = True
    assert task.signature(queue="mial").message().queue == "mial"


def test_a_message_that_is_too_large_is_refused_with_its_size(make_app: MakeApp) -> None:
    task = make_app(message_max_bytes=100).task(name="t")(lambda x: x)
    with pytest.raises(MessageTooLarge, match=r"\d+ bytes, more than `message_max_bytes` allows \(100\)"):
        task.delay("x" * 200)


def test_an_argument_that_cannot_be_serialised_is_refused_with_its_place(app: Celeriac) -> None:
    task = app.task(name="t")(lambda x, *more: x)
    other = app.task(name="other")(lambda x, y: x)
    for call, words in (
        (lambda: task.delay(object()), r"^Argument 'x' of t cannot be serialised \(builtins\.object\)\. Pass"),
        (lambda: task.delay(x={object()}), r"Argument 'x' of t .*\(builtins\.object at \[0\]\)"),
        (lambda: task.delay(1, 2, [object()]), r"Argument 'more' of t .*\(builtins\.object at \[0\]\)"),
        (lambda: task.delay("\ud800"), r"Argument 'x' of t .*\(builtins\.str: .*surrogates"),
        (lambda: task.apply_async([1], link=other.s([object()])), r"builtins\.object at \[0\]\[0\]\[0\]"),
    ):
        with pytest.raises(EncodeError, match=words):
            call()


def test_what_workers_would_not_read_is_refused_at_the_call(app: Celeriac) -> None:
    task = app.task(name="t")(lambda: None)
    long, headers, links = "x" * 1001, dict[str, Any](), task.si()
    for _ in range(51):
        headers, links = {"a": headers}, task.si().set(link=links)
    calls: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: task.apply_async(task_id=long), ValueError, "task_id must have at most 1,000 characters"),
        (lambda: app.send_task(long), ValueError, "the name of a task must have at most 1,000 characters"),
        (lambda: app.send_task(""), TypeError, "the name of a task must be a non-empty string"),
        (lambda: app.task(name=long)(lambda: None), ValueError, "name must have at most 1,000 characters"),
        (lambda: app.task(name=3)(lambda: None), TypeError, "name must be a non-empty string"),
        (lambda: task.apply_async(headers=headers), EncodeError, "headers are nested deeper than 50 levels"),
        (lambda: task.apply_async(link=links), MessageTooLarge, "links are nested deeper than 50 levels"),
        (lambda: task.apply_async(link_error=links), MessageTooLarge, "links are nested deeper than 50 levels"),
    ]
    for call, kind, words in calls:
        with pytest.raises(kind, match=words):
            call()


def test_an_unknown_option_of_a_call_or_a_task_is_refused(app: Celeriac) -> None:
    task = app.task(name="t")(lambda: None)
    for attempt in (
        lambda: task.apply_async(countdwn=1),  # type: ignore[call-arg]
        lambda: task.s().set(countdwn=1),
        lambda: app.send_task("t", countdwn=1),  # type: ignore[call-arg]
        lambda: app.send_task("elsewhere", countdwn=1),  # type: ignore[call-arg]
    ):
        with pytest.raises(UnknownOption, match="Did you mean 'countdown'"):
            attempt()
    with pytest.raises(UnknownOption, match="Did you mean 'retry_backoff'"):
        app.task(retry_backof=True)(print)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("option", "instead"),
    [("throws", "remove it"), ("retry_kwargs", "set `max_retries`"), ("routing_key", "set `queue`"),
     ("reject_on_worker_lost", "always delivered again")],
)  # fmt: skip
def test_an_option_of_a_task_that_only_celery_has_is_refused_with_what_to_do(
    app: Celeriac, option: str, instead: str
) -> None:
    with pytest.raises(UnknownOption, match=f"A task has no option '{option}' in Celeriac: .*{instead}"):
        app.task(name="t", **{option: "x"})(lambda: None)


@pytest.mark.parametrize(
    ("option", "instead"),
    [("routing_key", "set `queue`"), ("retry", "broker_publish_timeout"), ("throw", "task_eager_propagates")],
)
def test_an_option_of_a_call_that_only_celery_has_is_refused_with_what_to_do(
    app: Celeriac, option: str, instead: str
) -> None:
    task = app.task(name="t")(lambda: None)
    for attempt in (task.apply_async, task.apply, task.s().set, task.s().apply_async):
        with pytest.raises(UnknownOption, match=f"A call has no option '{option}' in Celeriac: .*{instead}"):
            attempt(**{option: "x"})


def test_a_task_with_an_unknown_serializer_is_refused(app: Celeriac) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'jason'. Did you mean 'json'"):
        app.task(name="t", serializer="jason")(lambda: None)


def test_what_is_no_boolean_is_refused_where_one_is_wanted(app: Celeriac) -> None:
    task = app.task(name="t")(lambda: None)
    data = {**task.s().to_dict(), "immutable": 1}
    for attempt in (
        lambda: task.signature(immutable=1),  # type: ignore[arg-type]
        lambda: task.s().set(immutable="no"),  # type: ignore[arg-type]
        lambda: app.signature("t", immutable=1),  # type: ignore[arg-type]
        lambda: app.signature(data),
    ):
        with pytest.raises(TypeError, match="immutable must be True or False"):
            attempt()
    assert task.s().set(immutable=True).immutable is True


def test_none_says_that_an_option_of_a_call_is_not_given(app: Celeriac, clock: FakeClock) -> None:
    none: dict[str, Any] = dict.fromkeys(CALL_OPTIONS - {"soft_time_limit", "time_limit"})
    task = app.task(name="t", queue="slow", priority=7, expires=60, headers={"a": 1}, max_retries=9)(lambda x: x)
    sent = []
    for message in (task.s(1).message(), task.s(1).message(**none), task.signature((1,), **none).message()):
        fields = (message.queue, message.priority, message.headers, message.due_at, message.max_retries)
        sent.append((*fields, round(message.expires_at - message.sent_at, 3) if message.expires_at else None))
    assert sent == [("slow", 7, {"a": 1}, None, None, 60.0)] * 3
    assert task.s(1).set(queue="slow", countdown=5).set(queue=None, countdown=None).options == {}
    assert task.apply((1,), **none).get() == 1
    assert len(task.delay_many([(1,), (2,)], task_id=None, serializer=None)) == 2
    assert group(task.s(1), **none).apply_async(**none).results
    assert task.s(1).set(time_limit=None).options == {"time_limit": None}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ("bob", r"write args=\('bob',\)"), (3, r"write args=\(3,\)"), ({"x": 1}, r"write kwargs=\{'x': 1\}"),
        ({1, 2}, ""), (range(2), ""),
    ],
)  # fmt: skip
def test_arguments_that_are_no_list_are_refused_and_not_taken_apart(app: Celeriac, args: Any, told: str) -> None:
    task = app.task(name="t")(lambda *args, **kwargs: None)
    for attempt in (
        lambda: task.apply_async(args),
        lambda: asyncio.run(task.aapply_async(args)),
        lambda: task.apply(args),
        lambda: task.signature(args),
        lambda: task.s().apply_async(args),
        lambda: chain(task.s(), task.s()).apply_async(args),
        lambda: group(task.s()).apply_async(args),
        lambda: app.send_task("t", args),
        lambda: app.send_task("elsewhere", args),
    ):
        with pytest.raises(ArgumentsError, match=f"args must be a list or tuple.*{told}"):
            attempt()


def test_named_arguments_that_are_no_dict_of_names_are_refused(app: Celeriac) -> None:
    task = app.task(name="t", typing=False)(lambda **kwargs: None)
    for kwargs in ({1: 2}, [("x", 1)], "x"):
        for attempt in (task.apply_async, task.signature, task.s().apply_async, group(task.s()).apply_async):
            with pytest.raises(ArgumentsError, match="kwargs must be a dict of named arguments"):
                attempt((), kwargs)
    with pytest.raises(ArgumentsError, match="kwargs must be a dict"):
        task.delay_many([{1: 2}])


def test_arguments_that_are_none_are_none(app: Celeriac) -> None:
    task = app.task(name="t")(lambda *args, **kwargs: [list(args), kwargs])
    assert task.apply(None, None).get() == [[], {}]  # type: ignore[arg-type]


def test_the_lane_is_that_of_the_function(app: Celeriac) -> None:
    async def wait() -> None: ...

    assert app.task(wait).s().message().lane == COROUTINE
    assert app.task(name="p")(lambda: None).s().message().lane == PLAIN


def test_a_message_sent_inside_a_task_knows_its_parent_and_its_root(app: Celeriac) -> None:
    @app.task
    def child() -> None: ...

    @app.task
    def parent() -> list[str | None]:
        message = child.s().message()
        return [message.parent_id, message.root_id]

    result = parent.apply(task_id="p")
    assert result.get() == ["p", "p"]
    assert child.s().message().parent_id is None


def test_two_functions_of_one_name_are_refused_and_one_function_twice_is_not(app: Celeriac) -> None:
    def first() -> None: ...

    def second() -> None: ...

    app.task(name="t")(first)
    app.task(name="t")(first)
    with pytest.raises(ImproperlyConfigured, match="Two functions are registered as the task 't'"):
        app.task(name="t")(second)


def test_a_task_is_named_after_its_module_and_function(app: Celeriac) -> None:
    @app.task
    def named() -> str:
        """Say something."""
        return "here"

    assert named.name == f"{__name__}.named"
    assert (named(), named.__name__, named.__doc__) == ("here", "named", "Say something.")


def test_many_calls_are_sent_in_few_steps(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    task = app.task(name="t")(lambda x: x)
    sizes: list[int] = []
    monkeypatch.setattr(app.broker, "publish", lambda messages: sizes.append(len(messages)))
    results = task.delay_many([(i,) for i in range(2500)], priority=9)
    assert sizes == [1000, 1000, 500]
    assert len({result.id for result in results}) == 2500
    assert len({result.id for result in task.delay_many([{"x": 1}, (2,)])}) == 2
    with pytest.raises(TypeError, match=r"write \(3,\)"):
        task.delay_many([3])  # type: ignore[list-item]
    with pytest.raises(ArgumentsError):
        task.delay_many([(1, 2)])


def test_the_results_of_many_calls_are_a_sequence(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    task = app.task(name="t")(lambda x: x)
    sent: list[Message] = []
    monkeypatch.setattr(app.broker, "publish", sent.extend)
    results = task.delay_many(((i,) for i in range(5)), ignore_result=True)
    ids = [message.id for message in sent]
    assert ([result.id for result in results], len(results)) == (ids, 5)
    assert [result.id for result in results[1:3]] == ids[1:3]
    assert (results[-1].id, results[-1].task_name, results[-1].ignored) == (ids[-1], "t", True)
    assert results[0] in results
    assert results[:2] + results == results[:2] + list(results)
    assert results + results == list(results) * 2
    assert repr(results) == "<Results t: 5>"
    with pytest.raises(IndexError):
        results[5]
    assert list(task.delay_many([])) == []
    assert results == list(results)
    assert list(results) == results
    assert results != list(results)[1:]
    assert results != [*list(results)[1:], results[0]]
    assert results not in (tuple(results), 3)


def test_nothing_of_a_list_of_calls_is_sent_when_one_is_wrong(app: Celeriac) -> None:
    task = app.task(name="t")(lambda x: x)
    right: list[Any] = [(i,) for i in range(1500)]
    for wrong in ((1, 2), {"y": 1}, 3):
        with pytest.raises(TypeError) as caught:
            task.delay_many([*right, wrong])
        assert not hasattr(caught.value, "sent")
    assert app.broker.complete(app.broker.operations().queues()) == []


@pytest.mark.parametrize("kind", ["an iterator's argument", "a list's encoding"])
async def test_an_error_among_many_calls_tells_which_were_sent(app: Celeriac, kind: str) -> None:
    task = app.task(name="t")(lambda x: x)
    right: list[Any] = [(i,) for i in range(1500)]

    def calls() -> Any:
        return [*right, (object(),)] if kind == "a list's encoding" else iter([*right, (1, 2)])

    with pytest.raises((ArgumentsError, EncodeError)) as caught:
        task.delay_many(calls())
    await hold_sent(app, caught.value)
    with pytest.raises((ArgumentsError, EncodeError)) as caught:
        await task.adelay_many(calls())
    await hold_sent(app, caught.value)


async def hold_sent(app: Celeriac, error: Any) -> None:
    messages = await app.broker.operations().peek("default", 2000)
    assert [result.id for result in error.sent] == [message.id for message in messages]
    assert error.__notes__[0].startswith("1,000 calls were sent before")
    assert await app.broker.operations().purge("default") == 1000


# --- Running here and now -----------------------------------------------------------------------------


def test_a_plain_task_and_a_coroutine_task_are_run(app: Celeriac) -> None:
    @app.task
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task
    async def wait(x: int) -> int:
        await asyncio.sleep(0)
        assert current_request() is not None
        return x

    assert add.apply((1,), {"y": 2}).get() == 3
    assert wait.apply((5,)).get() == 5
    assert add(2) == 3


async def test_a_coroutine_task_is_run_inside_a_loop_too(app: Celeriac) -> None:
    @app.task
    async def wait(x: int) -> int:
        return x

    assert wait.apply((5,)).get() == 5
    assert await wait.apply((6,)) == 6


def test_what_a_task_raises_is_raised_by_get_with_the_traceback_of_where_it_ran(app: Celeriac) -> None:
    @app.task
    def fail() -> None:
        raise KeyError("gone")

    result = fail.apply()
    with pytest.raises(KeyError) as caught:
        result.get()
    assert "in fail" in caught.value.__notes__[0]
    assert (result.state, result.failed(), result.ready(), result.successful()) == ("FAILURE", True, True, False)
    assert isinstance(result.get(propagate=False), KeyError)
    assert isinstance(result.result, KeyError)
    assert "KeyError: 'gone'" in str(result.traceback)


def test_a_remote_error_has_the_traceback_of_where_it_was_raised_as_a_note(app: Celeriac) -> None:
    @app.task
    def fail() -> None:
        raise SystemExit(3)

    with pytest.raises(RemoteError, match="SystemExit: 3") as caught:
        fail.apply().get()
    assert "in fail" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [KeyError("no"), SystemExit(3), ExceptionGroup("many", [OSError(1)])], ids=repr)
def test_the_exception_in_info_shows_nothing_of_the_worker(app: Celeriac, error: BaseException) -> None:
    @app.task
    def fail() -> None:
        raise error

    info = fail.apply().info
    assert isinstance(info, (RemoteError, type(error)))
    assert "fail" not in repr(vars(info))


class Several(ExceptionGroup[Exception]):
    pass


class Unlike(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} is not {two}")


def test_an_exception_group_comes_back_as_itself(app: Celeriac) -> None:
    inner = Several("inner", [KeyError("gone"), OSError("no")])
    inner.code = 7  # type: ignore[attr-defined]

    @app.task
    def fail() -> None:
        raise ExceptionGroup("outer", [ValueError("bad"), inner, Unlike(1, 2)])

    for call in (fail.s(), fail.s() | fail.si()):
        found: list[str] = []
        result = call.apply()
        try:
            result.get()
        except* KeyError as group:
            found += map(repr, group.exceptions[0].exceptions)  # type: ignore[attr-defined]
        except* (ValueError, Unlike) as group:
            found += map(str, group.exceptions)
        except* OSError as group:
            found += map(str, group.exceptions[0].exceptions)  # type: ignore[attr-defined]
        assert found == ["KeyError('gone')", "bad", "1 is not 2", "no"]
    error = fail.apply().result
    assert [type(one) for one in error.exceptions] == [ValueError, Several, Unlike]
    assert error.exceptions[1].code == 7
    assert "in fail" in error.__notes__[0]


@pytest.mark.parametrize("wide", [True, False])
def test_an_exception_group_that_is_too_large_becomes_a_remote_error(app: Celeriac, wide: bool) -> None:
    group = ExceptionGroup("many", [OSError(n) for n in range(1000 if wide else 1)])
    for _ in range(0 if wide else 500):
        group = ExceptionGroup("deep", [group])

    @app.task
    def fail() -> None:
        raise group

    with pytest.raises(RemoteError, match="ExceptionGroup: many .*1000" if wide else "ExceptionGroup: deep"):
        fail.apply().get()


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), MemoryError(), asyncio.CancelledError(), RecursionError()]
)
def test_every_way_to_raise_is_an_outcome(app: Celeriac, error: BaseException) -> None:
    @app.task
    def fail() -> None:
        raise error

    result = fail.apply()
    assert result.state == states.FAILURE
    with pytest.raises((RemoteError, type(error)) if isinstance(error, Exception) else RemoteError):
        result.get()


def test_what_goes_wrong_between_a_task_and_its_outcome_is_a_failure_and_is_logged(
    app: Celeriac, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(bind=True)
    def fail(self: Task[..., Any]) -> None:
        raise Retry("again", delay="soon")  # type: ignore[arg-type]

    result = fail.apply()
    assert result.state == states.FAILURE
    with pytest.raises(TypeError, match="must be seconds"):
        result.get()
    assert 'raise Retry("again"' in str(result.traceback)
    assert f"{fail.name}[{result.id}] failed, and handling its exception failed too" in caplog.text


class Nasty:
    __dataclass_fields__ = {"x": None}

    @property
    def x(self) -> int:
        raise MemoryError


@pytest.mark.parametrize("value", [object(), Nasty(), "\udcff"], ids=["object", "nasty", "surrogate"])
def test_a_return_value_that_cannot_be_serialised_fails_the_task(app: Celeriac, value: Any) -> None:
    result = app.task(name="t")(lambda: value).apply()
    assert result.state == states.FAILURE
    if not isinstance(value, Nasty):
        with pytest.raises(EncodeError, match=r"^The return value of t cannot be serialised"):
            result.get()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_coroutine_that_nobody_awaits_fails_the_task(app: Celeriac, ignored: bool) -> None:
    async def work() -> int:
        return 1

    async def forgetful() -> Any:
        return work()

    for number, function in enumerate((lambda: work(), forgetful)):
        message = app.task(name=str(number), ignore_result=ignored)(function).s().message()
        outcome = Executor(app, "").run_any(message)
        assert outcome.state == states.FAILURE
        assert "returned a coroutine, which nobody has awaited" in outcome.failure.message


def test_a_return_value_that_is_too_large_fails_the_task(make_app: MakeApp) -> None:
    app = make_app(result_max_bytes=10)
    with pytest.raises(EncodeError, match="result_max_bytes"):
        app.task(name="t")(lambda: "x" * 50).apply().get()


def test_a_result_that_is_ignored_is_not_kept_but_its_end_is(app: Celeriac) -> None:
    result = app.task(name="t", ignore_result=True)(lambda: 5).apply()
    assert (result.get(), result.state) == (None, states.SUCCESS)


@pytest.mark.parametrize("ignored", [True, False])
def test_the_start_of_a_task_is_recorded_unless_its_result_is_ignored(app: Celeriac, ignored: bool) -> None:
    told = []
    app.task(name="t")(lambda: 5)
    executor = Executor(app, "worker", lambda message, state, meta: told.append(state))
    executor.run(Message(id="i", task="t", body=b"[[],{}]", ignore_result=ignored, track_started=True))
    assert told == ([] if ignored else [states.STARTED])


def test_a_task_may_ask_to_be_ignored_or_rejected(app: Celeriac) -> None:
    def end(error: str) -> None:
        raise {"ignore": Ignore(), "reject": Reject("bad")}[error]

    task = app.task(name="t")(end)
    assert (task.apply(("ignore",)).state, task.apply(("ignore",)).get()) == (states.IGNORED, None)
    with pytest.raises(Reject, match="bad"):
        task.apply(("reject",)).get()


# --- Retries ------------------------------------------------------------------------------------------


def test_a_task_is_retried_until_it_succeeds(app: Celeriac) -> None:
    seen = []

    @app.task(bind=True, max_retries=5)
    def flaky(self: Task[..., Any]) -> int:
        seen.append((self.request.attempt, self.request.retries, self.request.id))
        if self.request.retries < 2:
            self.retry(exc=OSError("not yet"), countdown=3600)
        return self.request.attempt

    assert flaky.apply(task_id="f").get() == 3
    assert seen == [(1, 0, "f"), (2, 1, "f"), (3, 2, "f")]


def test_when_retries_are_exhausted_the_reason_is_raised(app: Celeriac) -> None:
    @app.task(bind=True, max_retries=2)
    def named(self: Task[..., Any]) -> None:
        self.retry(exc=OSError(f"attempt {self.request.attempt}"))

    @app.task(bind=True, max_retries=0)
    def handled(self: Task[..., Any]) -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            self.retry()

    @app.task(bind=True, max_retries=0)
    def silent(self: Task[..., Any]) -> None:
        self.retry()

    with pytest.raises(OSError, match="attempt 3"):
        named.apply().get()
    with pytest.raises(KeyError, match="inner"):
        handled.apply().get()
    with pytest.raises(MaxRetriesExceeded, match="was retried 0 times"):
        silent.apply().get()


@pytest.mark.parametrize(
    ("options", "call", "attempts"),
    [
        ({}, {}, 4),
        ({"max_retries": 1}, {}, 2),
        ({"max_retries": 1}, {"max_retries": 2}, 3),
        ({"max_retries": 0}, {}, 1),
    ],
)
def test_exceptions_are_retried_for_as_often_as_the_call_the_task_or_the_settings_say(
    app: Celeriac, options: Any, call: Any, attempts: int
) -> None:
    seen = []

    @app.task(autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), **options)
    def flaky(kind: str) -> None:
        seen.append(kind)
        raise {"os": OSError, "file": FileNotFoundError, "key": KeyError}[kind]

    for kind, expected in (("os", attempts), ("file", 1), ("key", 1)):
        seen.clear()
        with pytest.raises((OSError, KeyError)):
            flaky.apply((kind,), **call).get()
        assert len(seen) == expected


@pytest.mark.parametrize(
    ("error", "wanted", "is_retried"),
    [
        (ExceptionGroup("", [OSError()]), OSError, True),
        (ExceptionGroup("", [OSError(), ExceptionGroup("", [TimeoutError()])]), OSError, True),
        (ExceptionGroup("", [OSError(), KeyError()]), OSError, False),
        (ExceptionGroup("", [OSError(), KeyError()]), Exception, True),
        (ExceptionGroup("", [OSError(), KeyError()]), ExceptionGroup, True),
        (ExceptionGroup("", [OSError(), FileNotFoundError()]), OSError, False),
        (ExceptionGroup("", [OSError(), FileNotFoundError()]), Exception, False),
        (BaseExceptionGroup("", [OSError(), KeyboardInterrupt()]), OSError, False),
    ],
    ids=str,
)
def test_a_group_of_exceptions_is_retried_for_if_all_in_it_are(
    app: Celeriac, error: BaseException, wanted: type[BaseException], is_retried: bool
) -> None:
    @app.task(name="t", autoretry_for=(wanted,), dont_autoretry_for=(FileNotFoundError,))
    async def gather() -> None:
        raise error

    outcome = asyncio.run(Executor(app).arun(gather.s().message()))
    assert (outcome.state == states.RETRY) is is_retried


@pytest.mark.parametrize(
    ("ask", "state"),
    [
        (lambda task: task.retry(countdown=7, exc=OSError("away")), states.RETRY),
        (lambda task: task.replace(task.s()), states.REPLACED),
        (lambda _: Ignore(), states.IGNORED),
        (lambda _: Reject("no"), states.FAILURE),
        (lambda _: TaskRevoked("by hand"), states.REVOKED),
    ],
    ids=["retry", "replace", "ignore", "reject", "revoked"],
)
def test_a_task_may_ask_for_an_ending_within_a_task_group(app: Celeriac, ask: Any, state: str) -> None:
    async def fail() -> None:
        raise ValueError("besides")

    @app.task(bind=True)
    async def gather(self: Task[..., Any]) -> None:
        async def asks() -> None:
            raise ask(self)

        async with asyncio.TaskGroup() as outer:
            outer.create_task(fail())
            async with asyncio.TaskGroup() as inner:
                inner.create_task(asks())

    outcome = asyncio.run(Executor(app).arun(gather.s().message()))
    assert (outcome.state, outcome.rejected) == (state, state == states.FAILURE)
    if state == states.RETRY:
        assert outcome.retry_delay == 7
        assert outcome.failure is not None
        assert outcome.failure.type == "OSError"


def test_the_delay_before_a_retry_is_the_calls_or_the_tasks(app: Celeriac, clock: FakeClock) -> None:
    delays: list[float] = []

    def told(sender: Any, reason: Retry, **more: Any) -> None:
        delays.append(reason.when)

    def run(call: dict[str, Any], **options: Any) -> None:
        @app.task(bind=True, max_retries=1, name=str(len(app.tasks)), **options)
        def again(self: Task[..., Any]) -> None:
            self.retry(**call)

        again.apply()

    signals.task_retry.connect(told)
    try:
        run({"countdown": timedelta(minutes=1)})
        run({}, default_retry_delay=7)
        run({}, retry_backoff=4, retry_jitter=False)
        run({"countdown": -5})
        run({"eta": datetime.fromtimestamp(app.clock.now() + 100, UTC)})
    finally:
        signals.task_retry.disconnect(told)
    assert delays[:4] == [60.0, 7.0, 4.0, 0.0]
    assert 90 < delays[4] <= 100


def test_a_retry_that_was_due_in_the_past_starts_at_once(app: Celeriac) -> None:
    @app.task(name="late")
    def late() -> None:
        raise Retry(delay=-5)

    outcome = Executor(app).run(late.s().message())
    assert (outcome.state, outcome.retry_delay) == ("RETRY", 0.0)


@pytest.mark.parametrize(
    "error", [Reject("bad"), Reject("bad", requeue=True), TaskRevoked("by hand"), Retry("again")], ids=repr
)
@pytest.mark.parametrize("propagate", [True, False])
def test_how_another_task_has_ended_is_a_failure_of_the_one_that_asks(
    app: Celeriac, error: Exception, propagate: bool
) -> None:
    @app.task(bind=True)
    def other(self: Task[..., Any]) -> None:
        if isinstance(error, Retry) and self.request.retries:
            raise Reject("bad") from error
        raise error

    @app.task
    async def asks() -> None:
        result = other.apply()
        found = await result.aget(propagate=propagate)
        if isinstance(found, BaseException):
            raise found

    result = asks.apply()
    assert (result.state, result.outcome.rejected, result.outcome.requeue) == (states.FAILURE, False, False)
    with pytest.raises((Reject, TaskRevoked)):
        result.get()
    assert f"In {other.name}[" in str(result.traceback)


def test_the_tasks_of_packages_are_discovered_when_a_worker_imports_them(
    app: Celeriac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("fruit_shop", "bare_shop", "fruit_mail"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    shared = "from celeriac import shared_task\n\n@shared_task(name='{}')\ndef task(): pass\n"
    (tmp_path / "fruit_shop" / "tasks.py").write_text(shared.format("of fruit_shop.tasks"))
    (tmp_path / "fruit_mail" / "jobs.py").write_text(shared.format("of fruit_mail.jobs"))
    (tmp_path / "lone_shop.py").write_text(shared.format("of lone_shop"))
    app.autodiscover_tasks(["fruit_shop", "bare_shop"])
    app.autodiscover_tasks(lambda: ["fruit_mail"], related_name="jobs")
    assert "of fruit_shop.tasks" not in app.tasks
    app.import_tasks()
    assert {"of fruit_shop.tasks", "of fruit_mail.jobs"} <= set(app.tasks)
    app.autodiscover_tasks(["lone_shop"], related_name=None, force=True)
    assert "of lone_shop" in app.tasks
    with pytest.raises(ImproperlyConfigured, match=r"needs a list of packages: \['fruit_shop'\]"):
        app.autodiscover_tasks("fruit_shop")
    with pytest.raises(ModuleNotFoundError, match="no_such_shop"):
        app.autodiscover_tasks(["no_such_shop"], force=True)


def test_an_error_callback_that_raises_the_error_it_received_fails(app: Celeriac) -> None:
    ends = []

    @app.task
    def told(request: Any, error: BaseException, traceback: str) -> None:
        raise error

    def note(sender: Any, state: str, **more: Any) -> None:
        ends.append((sender.name, state))

    @app.task
    def gives_up() -> None:
        raise TaskRevoked

    signals.task_postrun.connect(note)
    try:
        gives_up.apply(link_error=told.s())
    finally:
        signals.task_postrun.disconnect(note)
    assert ends == [(gives_up.name, states.REVOKED), (told.name, states.FAILURE)]


def test_how_another_task_has_ended_can_be_retried_for(app: Celeriac) -> None:
    @app.task
    def other() -> None:
        raise Reject("bad")

    @app.task(bind=True, autoretry_for=(Reject,), max_retries=1)
    def asks(self: Task[..., Any]) -> int:
        if self.request.retries == 0:
            other.apply().get()
        return self.request.attempt

    assert asks.apply().get() == 2


@pytest.mark.parametrize(("error", "state"), [(Ignore(), states.IGNORED), (Reject("bad"), states.FAILURE)])
def test_what_a_task_asks_for_is_not_retried_whatever_it_is_retried_for(
    app: Celeriac, error: Exception, state: str
) -> None:
    attempts = []

    @app.task(bind=True, autoretry_for=(Exception,))
    def end(self: Task[..., Any]) -> None:
        attempts.append(self.request.attempt)
        raise error

    assert end.apply().state == state
    assert attempts == [1]


def test_a_retry_that_is_raised_by_hand_is_one(app: Celeriac) -> None:
    @app.task(bind=True)
    def once(self: Task[..., Any]) -> str:
        if self.request.attempt == 1:
            raise Retry("again")
        return "done"

    assert once.apply().get() == "done"


@pytest.mark.parametrize(
    ("retry", "delays", "error"),
    [
        (lambda: Retry("again"), [4.0, 8.0], MaxRetriesExceeded),
        (lambda: Retry(exc=OSError("busy")), [4.0, 8.0], OSError),
        (lambda: Retry("again", delay=60), [60.0, 60.0], MaxRetriesExceeded),
        (lambda: Retry("again", delay=-1), [0.0, 0.0], MaxRetriesExceeded),
    ],
)  # fmt: skip
def test_a_retry_that_is_raised_by_hand_follows_the_policy_of_its_task(
    app: Celeriac, retry: Callable[[], Retry], delays: list[float], error: type[Exception]
) -> None:
    @app.task(max_retries=2, retry_backoff=4, retry_jitter=False)
    def again() -> None:
        raise retry()

    message = again.s().message()
    outcomes = [Executor(app).run(msgspec.structs.replace(message, attempt=attempt)) for attempt in (1, 2, 3)]
    assert [outcome.state for outcome in outcomes] == [states.RETRY, states.RETRY, states.FAILURE]
    assert [outcome.retry_delay for outcome in outcomes[:2]] == delays
    assert outcomes[2].failure is not None
    assert isinstance(outcomes[2].failure.exception(), error)
    assert "raise retry()" in outcomes[2].failure.traceback


# --- Inside the task ----------------------------------------------------------------------------------


def test_a_request_tells_what_the_call_said(app: Celeriac) -> None:
    @app.task(bind=True, priority=7, time_limit=5, soft_time_limit=4)
    def tell(self: Task[..., Any], x: int, y: int = 0) -> Any:
        request = self.request
        assert request.is_eager
        assert not request.blocks_child
        assert request.eta is None
        return [request.id, request.queue, request.priority, request.headers, request.args, request.kwargs,
                list(request.timelimit), request.delivery_info,
                request.root_id, request.parent_id, request.group_id]  # fmt: skip

    result = tell.apply((1,), {"y": 2}, task_id="i", headers={"h": 1})
    assert result.task_id == result.id == "i"
    assert result.get() == [
        "i", "default", 7, {"h": 1}, [1], {"y": 2}, [5.0, 4.0],
        {"exchange": "", "routing_key": "default", "priority": 7, "redelivered": False}, "i", None, None,
    ]  # fmt: skip


def test_the_states_that_are_celeriacs_own_cannot_be_set_by_a_task(app: Celeriac) -> None:
    @app.task(bind=True)
    def tell(self: Task[..., Any], state: str) -> None:
        self.progress(1, 2)
        self.update_state(state, {"x": 1})

    assert tell.apply(("SPINNING",)).state == states.SUCCESS
    for state in (*states.READY_STATES, states.RETRY, states.REPLACED):
        with pytest.raises(ValueError, match="Only Celeriac sets the state"):
            tell.apply((state,)).get()


@pytest.mark.parametrize(
    ("told", "error", "match"),
    [
        (lambda task: task.update_state(None), TypeError, "state must be a non-empty string, not None"),
        (lambda task: task.update_state(123), TypeError, "state must be a non-empty string, not 123"),
        (lambda task: task.update_state("\ud800"), ValueError, "state must be text that can be encoded as UTF-8"),
        (lambda task: task.update_state("SPINNING", {"x": object()}), EncodeError, r"builtins\.object at \['x'\]"),
        (lambda task: task.update_state("SPINNING", "x" * 1000), EncodeError,
         r"sets a state with 1,002 bytes, more than `result_max_bytes` allows \(1,000\)"),
    ],
    ids=["none", "number", "surrogate", "meta", "too large"],
)
def test_a_state_or_a_meta_that_cannot_be_recorded_fails_the_task(
    app: Celeriac, told: Callable[[Any], None], error: type[Exception], match: str
) -> None:
    app.conf.result_max_bytes = 1000

    @app.task(bind=True)
    def tell(self: Task[..., Any]) -> None:
        told(self)

    with pytest.raises(error, match=match):
        tell.apply().get()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"exc": "away"}, TypeError, "exc must be an exception, not 'away'"),
        ({"max_retries": -1}, ValueError, "max_retries must be a whole number of 0 or more, not -1"),
        ({"max_retries": True}, ValueError, "max_retries must be a whole number of 0 or more, not True"),
        ({"countdown": "soon"}, TypeError, r"countdown must be seconds \(a number\) or a timedelta"),
    ],
)
def test_a_retry_that_cannot_be_fails_the_task(app: Celeriac, options: Any, error: type[Exception], match: str) -> None:
    @app.task(bind=True)
    def again(self: Task[..., Any]) -> None:
        self.retry(**options)

    with pytest.raises(error, match=match):
        again.apply().get()


def test_signals_tell_of_a_task(app: Celeriac) -> None:
    heard: list[str] = []
    names = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry")
    receivers = {name: (lambda sender, name=name, **more: heard.append(name)) for name in names}
    for name, receiver in receivers.items():
        getattr(signals, name).connect(receiver)
    try:
        app.task(name="good")(lambda: 1).apply()
        app.task(name="bad", max_retries=1, autoretry_for=ZeroDivisionError)(lambda: 1 / 0).apply()
    finally:
        for name, receiver in receivers.items():
            getattr(signals, name).disconnect(receiver)
    assert heard == [
        "task_prerun", "task_success", "task_postrun",
        "task_prerun", "task_retry", "task_postrun", "task_prerun", "task_failure", "task_postrun",
    ]  # fmt: skip


def test_a_signal_is_heard_of_one_sender_where_one_is_named(app: Celeriac) -> None:
    mine = app.task(name="mine")(lambda: None)
    other = app.task(name="other")(lambda: None)
    shared = shared_task(name="shared.heard")(lambda: None)
    heard: list[tuple[str, str]] = []

    @signals.task_success.connect(sender=mine)
    def of_mine(sender: Any, **more: Any) -> None:
        heard.append(("mine", sender.name))

    @signals.task_success.connect(sender=shared)
    def of_shared(sender: Any, **more: Any) -> None:
        heard.append(("shared", sender.name))

    @signals.task_success.connect()
    def of_all(sender: Any, **more: Any) -> None:
        heard.append(("all", sender.name))

    try:
        for task in (mine, other, shared):
            task.apply()
    finally:
        for receiver in (of_mine, of_shared, of_all):
            signals.task_success.disconnect(receiver)
    assert heard == [
        ("mine", "mine"), ("all", "mine"), ("all", "other"), ("shared", "shared.heard"), ("all", "shared.heard"),
    ]  # fmt: skip


# --- Eager --------------------------------------------------------------------------------------------


def test_with_task_always_eager_calls_are_run_at_once(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True, broker_url="sqlite:////no/such/folder/x.db")
    task = app.task(name="t")(lambda x: x + 1)
    assert task.delay(1).get() == 2
    assert task.apply_async((1,), countdown=60).get() == 2
    assert asyncio.run(task.adelay(1)).get() == 2
    assert task.s(1).delay().get() == 2
    assert app.send_task("t", (1,)).get() == 2
    assert [result.get() for result in task.delay_many([(1,), (2,)])] == [2, 3]
    assert list(app.map(task, range(5))) == [1, 2, 3, 4, 5]


def test_with_task_eager_propagates_what_a_task_raises_is_raised_at_the_call(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True, task_eager_propagates=True)
    task = app.task(name="t")(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        task.delay()


def test_an_unknown_task_is_an_error_that_names_the_nearest(app: Celeriac) -> None:
    app.task(name="shop.add")(lambda x: x)
    with pytest.raises(NotRegistered, match=r"Did you mean 'shop\.add'"):
        _ = app.tasks["shop.ad"]
    with pytest.raises(KeyError):
        _ = app.tasks["shop.ad"]
    assert "shop.ad" not in app.tasks
    assert app.tasks.get("shop.ad") is None


@pytest.mark.parametrize("decorate", [lambda app: app.task("shop.add"), lambda app: shared_task("shop.add")])  # type: ignore[call-overload]
def test_a_name_passed_as_the_function_is_an_error_that_names_the_keyword(app: Celeriac, decorate: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"not 'shop\.add'\. .*\(name=…\)"):
        decorate(app)


@pytest.mark.parametrize("base", [object, Task(), 3])
def test_a_base_that_is_no_task_class_is_an_error_that_says_so(app: Celeriac, base: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"base must be a subclass of celeriac\.Task, not"):
        app.task(base=base)(lambda: None)


def test_what_has_no_name_becomes_a_task_with_one(app: Celeriac) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"has no name that its task could have: write @app\.task\(name=…\)"):
        app.task(partial(lambda x: x, 7))
    assert app.task(name="seven")(partial(lambda x: x, 7)).apply().get() == 7


async def test_a_task_is_sent_by_its_name_and_by_nothing_else(app: Celeriac) -> None:
    add: Any = app.task(name="shop.add")(lambda x: x)
    with pytest.raises(ArgumentsError, match=r"name of a task, 'shop\.add', not 3"):
        app.send_task(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentsError, match=r"name of a task, 'shop\.add', not <"):
        app.send_task(add, [1])
    with pytest.raises(ArgumentsError, match="needs the name of a task"):
        await app.asend_task(add, [1])


def test_with_task_always_eager_a_task_that_is_not_registered_is_refused(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True)
    with pytest.raises(NotRegistered):
        app.send_task("elsewhere")


# --- Shared tasks -------------------------------------------------------------------------------------


def test_a_shared_task_is_a_task_of_every_app_made_before_or_after(make_app: MakeApp) -> None:
    before = make_app("before")

    @shared_task(name="shared.add", queue="lib")
    def add(x: int, y: int) -> int:
        return x + y

    after = make_app("after")
    assert "shared.add" in before.tasks
    assert "shared.add" in after.tasks
    assert current_app() is after
    assert add(1, 2) == 3
    assert add.apply((1, 2)).get() == 3
    assert add.s(1, 2).app is after
    assert "lib" in before.queues
    assert "shared.add" in repr(add)


async def test_inside_a_task_the_current_app_is_that_of_the_task(make_app: MakeApp) -> None:
    first = make_app("first")

    @shared_task(name="shared.child")
    def child() -> None: ...

    async def parent() -> list[str]:
        return [current_app().main, child.s().app.main]

    named = first.task(name="parent")(parent)
    plain = first.task(name="plain")(lambda: [current_app().main, child.s().app.main])
    last = make_app("last")
    assert await named.apply() == ["first", "first"]
    assert plain.apply().get() == ["first", "first"]
    assert current_app() is last


def test_a_task_by_name_needs_no_registration_here(app: Celeriac) -> None:
    result = app.send_task("elsewhere.add", (1, 2), priority=9)
    [message] = app.broker.complete(app.broker.operations().peek("default", 10))
    assert (message.id, message.task, message.priority) == (result.id, "elsewhere.add", 9)
    assert result.exists()
    assert not app.AsyncResult("nobody").exists()
