"""Classes of tasks: options as attributes, hooks, overrides of `apply_async` and `__call__`, tasks that are classes."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from celeriac import (
    AsyncResult,
    Celeriac,
    Ignore,
    Reject,
    Task,
    chain,
    current_request,
    group,
    shared_task,
    signals,
    states,
)
from celeriac.errors import DecodeError, ImproperlyConfigured, UnknownOption, WorkflowError
from celeriac.model.message import Message
from celeriac.tasks.execution import Executor
from celeriac.testing import running_worker
from tests.environment import without_settings
from tests.patience import PATIENCE
from tests.promises.harness import Stage, get

MakeApp = Callable[..., Celeriac]


def waiting(app: Celeriac) -> list[Message]:
    found: list[Message] = app.broker.complete(app.broker.operations().peek("default", 100))
    return found


# --- Options ------------------------------------------------------------------------------------------


def test_a_tasks_class_may_be_ones_own(app: Celeriac) -> None:
    class Loud(Task[..., Any]):
        def call(self, request: Any) -> Any:
            return f"{super().call(request)}!"

    assert app.task(base=Loud, name="t")(lambda: "hey").apply().get() == "hey!"


def test_options_may_be_attributes_of_a_tasks_class_and_the_decorators_come_first(app: Celeriac) -> None:
    class Stubborn(Task[..., Any]):
        autoretry_for = (ValueError,)
        max_retries = 5
        queue = "slow"
        rate_limit = "30/m"

    class Calm(Stubborn):
        max_retries = 2

    attempts: list[str] = []

    def fail() -> None:
        attempts.append("")
        raise ValueError

    for count, options in ((6, {"base": Stubborn}), (3, {"base": Calm}), (2, {"base": Calm, "max_retries": 1})):
        task = app.task(name=f"t{count}", **options)(fail)
        attempts.clear()
        task.apply()
        assert len(attempts) == count
        assert task.max_retries == count - 1
        assert (task.s().message().queue, task.queue, task.rate) == ("slow", "slow", 0.5)


def test_options_may_come_from_a_class_beside_the_tasks_class_and_from_its_constructor(app: Celeriac) -> None:
    class Patient:
        max_retries = 9

    class Mine(Patient, Task[..., Any]):
        def __init__(self) -> None:
            self.time_limit = 30
            self.connection = object()

    task = app.task(base=Mine, name="t")(lambda: None)
    assert (task.options["max_retries"], task.options["time_limit"]) == (9, 30.0)
    assert task.s().message().time_limit == 30.0


def test_the_constructor_of_a_tasks_class_knows_its_name_and_its_app(app: Celeriac) -> None:
    class Mine(Task[..., Any]):
        def __init__(self) -> None:
            self.knew = (self.name, self.app.conf.task_default_queue)

    task = app.task(base=Mine, name="t")(lambda: None)
    assert task.knew == ("t", "default")


def test_a_base_or_a_name_that_is_none_is_refused(app: Celeriac) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"base must be a subclass of celeriac\.Task, not <class"):
        app.task(base=str)(lambda: None)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="name must be a non-empty string, not 5"):
        app.task(name=5)(lambda: None)  # type: ignore[call-overload]


def test_the_options_of_a_task_are_its_attributes(make_app: MakeApp) -> None:
    app = make_app(task_time_limit=60, task_acks_late=False)
    task = app.task(name="t", max_retries=7)(lambda: None)
    assert (task.max_retries, task.time_limit, task.acks_late, task.queue) == (7, 60.0, False, "default")
    assert (task.default_retry_delay, task.expires, task.autoretry_for, task.typing) == (None, None, (), True)
    task.priority = 9
    assert task.s().message().priority == 9
    with pytest.raises(ValueError, match="priority must be a whole number from 0 to 9"):
        task.priority = 10
    assert task.priority == 9


def test_an_attribute_of_a_tasks_class_is_checked_as_an_option(app: Celeriac) -> None:
    class Wrong(Task[..., Any]):
        max_retries = "5"

    with pytest.raises(ValueError, match="max_retries must be a whole number of 0 or more, not '5'"):
        app.task(base=Wrong)(lambda: None)


@pytest.mark.parametrize(
    ("attribute", "instead"),
    [("retry_kwargs", "max_retries"), ("routing_key", "queue"), ("acks_on_failure", "remove it"), ("throws", "remove"),
     ("Request", "task_revoked"), ("backend", "result_backend")],
)
def test_what_would_do_nothing_in_a_tasks_class_is_refused(app: Celeriac, attribute: str, instead: str) -> None:
    made = type("Made", (Task,), {attribute: "x"})
    with pytest.raises(UnknownOption, match=rf"Made\.{attribute} has no effect in Celeriac: .*{instead}"):
        app.task(base=made)(lambda: None)


# --- Hooks --------------------------------------------------------------------------------------------


class Noted(Task[..., Any]):
    """Notes which hooks are called, and with what."""

    notes: list[tuple[Any, ...]] = []

    def note(self, hook: str, *given: Any) -> None:
        request = current_request()
        assert request is not None
        assert request is self.request
        self.notes.append((hook, *given))

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> Any:
        self.note("before_start", task_id, args, kwargs)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> Any:
        self.note("on_success", retval, task_id, args, kwargs)
        super().on_success(retval, task_id, args, kwargs)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> Any:
        assert (einfo.exception, einfo.type, einfo.exc_info[2]) == (exc, type(exc), exc.__traceback__)
        assert f"{type(exc).__name__}: {exc}" in str(einfo)
        self.note("on_failure", repr(exc), task_id, args, kwargs)

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> Any:
        self.note("on_retry", repr(exc), task_id, args, kwargs)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> Any:
        self.note("after_return", status, repr(retval), task_id, args, kwargs, einfo is not None)


class NotedLater(Noted):
    """The same, in coroutines."""

    async def before_start(self, *given: Any) -> Any:
        await asyncio.sleep(0)
        super().before_start(*given)

    async def on_success(self, *given: Any) -> Any:
        await asyncio.sleep(0)
        super().on_success(*given)

    async def on_failure(self, *given: Any) -> Any:
        await asyncio.sleep(0)
        super().on_failure(*given)

    async def on_retry(self, *given: Any) -> Any:
        await asyncio.sleep(0)
        super().on_retry(*given)

    async def after_return(self, *given: Any) -> Any:
        await asyncio.sleep(0)
        super().after_return(*given)


def plain_divide(x: int, y: int = 1) -> float:
    return x / y


async def coroutine_divide(x: int, y: int = 1) -> float:
    await asyncio.sleep(0)
    return x / y


PAIRS = [(base, function) for base in (Noted, NotedLater) for function in (plain_divide, coroutine_divide)]


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0].__name__}-{pair[1].__name__}")
def noted(request: pytest.FixtureRequest, app: Celeriac) -> Any:
    base, function = request.param
    base.notes.clear()
    return app.task(base=base, name="t", max_retries=1, default_retry_delay=0)(function)


@pytest.mark.parametrize("where", ["here", "worker"])
def test_the_hooks_of_a_tasks_class_are_called(noted: Any, app: Celeriac, where: str) -> None:
    def run(*args: Any, **kwargs: Any) -> Any:
        if where == "here":
            return noted.apply(args, kwargs, task_id="i")
        result = noted.apply_async(args, kwargs, task_id="i")
        result.get(timeout=PATIENCE, propagate=False)
        return result

    with running_worker(app) if where == "worker" else contextlib.nullcontext():
        assert run(4, y=2).state == states.SUCCESS
        assert noted.notes == [
            ("before_start", "i", [4], {"y": 2}), ("on_success", 2.0, "i", [4], {"y": 2}),
            ("after_return", "SUCCESS", "2.0", "i", [4], {"y": 2}, False),
        ]  # fmt: skip
        noted.notes.clear()
        noted.autoretry_for = (ZeroDivisionError,)
        assert run(4, 0).state == states.FAILURE
    error = "ZeroDivisionError('division by zero')"
    assert noted.notes == [
        ("before_start", "i", [4, 0], {}), ("on_retry", error, "i", [4, 0], {}), ("before_start", "i", [4, 0], {}),
        ("on_failure", error, "i", [4, 0], {}), ("after_return", "FAILURE", error, "i", [4, 0], {}, True),
    ]  # fmt: skip


def test_a_value_that_cannot_be_sent_is_a_failure_to_the_hooks_too(app: Celeriac) -> None:
    Noted.notes.clear()
    assert app.task(base=Noted, name="t")(lambda: object()).apply(task_id="i").state == states.FAILURE
    assert [note[0] for note in Noted.notes] == ["before_start", "on_failure", "after_return"]


@pytest.mark.parametrize("error", [Ignore("no"), Reject("no")])
def test_no_hook_is_called_at_the_end_of_a_task_that_asks_to_be_ignored_or_rejected(
    app: Celeriac, error: Exception
) -> None:
    Noted.notes.clear()

    def end() -> None:
        raise error

    app.task(base=Noted, name="t")(end).apply(task_id="i")
    assert Noted.notes == [("before_start", "i", [], {})]


@pytest.mark.parametrize("function", [plain_divide, coroutine_divide])
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize("error", [ValueError, SystemExit, asyncio.CancelledError])
def test_a_hook_that_raises_does_not_change_the_outcome(
    app: Celeriac, caplog: pytest.LogCaptureFixture, function: Any, kind: str, error: type[BaseException]
) -> None:
    def plain(self: Any, *given: Any) -> None:
        raise error

    async def coroutine(self: Any, *given: Any) -> None:
        raise error

    hook = plain if kind == "plain" else coroutine
    base = type("Base", (Task,), dict.fromkeys(("on_success", "on_failure", "on_retry", "after_return"), hook))
    task = app.task(base=base, name="t", max_retries=1, autoretry_for=ZeroDivisionError)(function)
    assert task.apply((4, 2)).get() == 2.0
    result = task.apply((4, 0))
    with pytest.raises(ZeroDivisionError):
        result.get()
    logged = [record.getMessage().partition(" of ")[0] for record in caplog.records]
    assert logged == [f"The hook {name}" for name in
                      ("on_success", "after_return", "on_retry", "on_failure", "after_return")]  # fmt: skip


def test_what_before_start_raises_ends_the_attempt(app: Celeriac) -> None:
    class Guarded(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            raise Ignore("closed")

    ran: list[int] = []
    assert app.task(base=Guarded, name="t")(lambda: ran.append(1)).apply().state == states.IGNORED
    assert ran == []


def test_the_hooks_of_a_plain_task_may_be_coroutines_inside_a_loop_too(app: Celeriac) -> None:
    NotedLater.notes.clear()
    task = app.task(base=NotedLater, name="t")(plain_divide)

    async def inside() -> Any:
        return task.apply((4, 2), task_id="i").get()

    assert asyncio.run(inside()) == 2.0
    assert [note[0] for note in Noted.notes] == ["before_start", "on_success", "after_return"]


@dataclass
class Order:
    article: str


@pytest.mark.parametrize("base", [Noted, NotedLater])
@pytest.mark.parametrize("lane", ["plain", "coroutine"])
async def test_arguments_that_cannot_be_rebuilt_are_a_failure_to_hooks_and_receivers(
    app: Celeriac, base: Any, lane: str
) -> None:
    async def coroutine(order: Order) -> None: ...

    def plain(order: Order) -> None: ...

    base.notes.clear()
    told: list[Any] = []

    @signals.task_failure.connect
    def receive(sender: Any, exception: Any, task_id: str, args: Any, **more: Any) -> None:
        told.append((sender, sender.request.id, type(exception), task_id, args))

    task = app.task(base=base, name="t", autoretry_for=Exception)(coroutine if lane == "coroutine" else plain)
    message = Message(id="i", task="t", body=b'[[{"price":3}],{}]')
    executor = Executor(app)
    try:
        outcome = await executor.arun(message) if lane == "coroutine" else executor.run(message)
    finally:
        signals.task_failure.disconnect(receive)
    assert outcome.state == states.FAILURE
    assert [note[0] for note in Noted.notes] == ["on_failure", "after_return"]
    assert told == [(task, "i", DecodeError, "i", [])]


HOOKED = """
class Slow(Task):
    def on_success(self, *given):
        while True:
            time.sleep(0.01)

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        Path(__file__).with_name(task_id).write_text(f"{self.request.id} {exc}")

class AsyncSlow(Slow):
    async def on_success(self, *given):
        await asyncio.sleep(600)

def divide(x, y):
    return x / y

async def adivide(x, y):
    return x / y

app.task(base=Slow, name="plain.slow")(divide)
app.task(base=AsyncSlow, name="coroutine.slow")(adivide)
"""


def test_hooks_run_in_the_process_of_the_task_within_its_soft_time_limit(stage: Stage) -> None:
    with (stage.folder / "victim.py").open("a") as module:
        module.write(f"from celeriac import Task\n{HOOKED}")
    worker = stage.worker("-c", "1")
    for name in ("plain.slow", "coroutine.slow"):
        assert get(stage.app.send_task(name, (4, 2), soft_time_limit=0.5)) == 2.0
        failed = stage.app.send_task(name, (4, 0))
        with pytest.raises(ZeroDivisionError):
            get(failed)
        assert (stage.folder / failed.id).read_text() == f"{failed.id} division by zero"
    assert worker.text().count("The hook on_success of") == 2


def test_a_task_without_hooks_calls_none(app: Celeriac) -> None:
    assert app.task(name="t")(plain_divide).hooks == frozenset()
    assert app.task(base=Noted, name="noted")(plain_divide).hooks == {
        "before_start", "on_success", "on_failure", "on_retry", "after_return"
    }  # fmt: skip


# --- Calls --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", [True, False])
@pytest.mark.parametrize("coroutine", [True, False])
def test_a_task_class_may_wrap_the_call(app: Celeriac, bind: bool, coroutine: bool) -> None:
    around: list[str] = []

    class InContext(Task[..., Any]):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            around.append(f"in {self.request.id}")
            try:
                return self.run(*args, **kwargs)
            finally:
                around.append("out")

    def body(*args: Any) -> Any:
        return args[-1] + 1

    async def abody(*args: Any) -> Any:
        return args[-1] + 1

    task: Any = app.task(base=InContext, name="t", bind=bind)(abody if coroutine else body)
    assert task.apply((1,), task_id="i").get() == 2
    assert around == ["in i", "out"]
    direct = asyncio.run(task(1)) if coroutine else task(1)
    assert (direct, around[2:]) == (2, ["in None", "out"])


def test_a_task_runs_as_a_function(app: Celeriac) -> None:
    @app.task(bind=True)
    def bound(self: Any, x: int) -> Any:
        return self.name, x

    assert bound.run(1) == bound(1) == (bound.name, 1)
    assert app.task(name="plain")(plain_divide).run(4, y=2) == 2.0


def test_a_class_with_run_is_a_task(app: Celeriac) -> None:
    class Add(Task[..., Any]):
        """Adds."""

        name = "shop.add"
        max_retries = 1

        def __init__(self) -> None:
            self.calls = 0

        def run(self, x: int, y: int = 0) -> Any:
            self.calls += 1
            return [self.request.id, x + y]

    class Later(Task[..., Any]):
        async def run(self, x: int) -> int:
            return x + 1

    made = Add()
    add = app.register_task(made)
    later = app.register_task(Later)
    assert add is made is app.tasks["shop.add"]
    assert (add.__doc__, add.max_retries, later.lane) == ("Adds.", 1, "coroutine")
    assert later.name == f"{__name__}.Later"
    assert add(1, 2) == [None, 3]
    assert add.apply((1,), {"y": 2}, task_id="i").get() == ["i", 3]
    with running_worker(app):
        assert add.apply_async((1, 2), task_id="j").get(timeout=PATIENCE) == ["j", 3]
        assert later.delay(1).get(timeout=PATIENCE) == 2
    assert made.calls == 3
    with pytest.raises(TypeError, match="'x' is missing"):
        add.delay()


def test_a_class_that_is_no_task_is_not_registered(app: Celeriac) -> None:
    class Empty(Task[..., Any]):
        pass

    for wrong in (Empty, Empty(), object(), lambda: None):
        with pytest.raises(ImproperlyConfigured, match="a subclass of Task that has a method `run`"):
            app.register_task(wrong)  # type: ignore[arg-type]

    class Full(Task[..., Any]):
        def run(self) -> None: ...

    with pytest.raises(ImproperlyConfigured, match=r"register it with app\.register_task\(Full\(\)\)"):
        app.task(Full)
    app.register_task(Full())
    other = type("Other", (Full,), {"name": f"{__name__}.Full"})
    with pytest.raises(ImproperlyConfigured, match="Two functions are registered as the task"):
        app.register_task(other())


def test_on_replace_of_a_task_class_is_called(app: Celeriac) -> None:
    replaced: list[Any] = []

    class Watched(Task[..., Any]):
        def on_replace(self, sig: Any) -> Any:
            replaced.append(sig.task)
            return super().on_replace(sig)

    class Stays(Task[..., Any]):
        def on_replace(self, sig: Any) -> Any:
            return "stayed"

    add = app.task(name="add")(lambda x, y: x + y)

    def swap(self: Any) -> Any:
        return self.replace(add.s(1, 2))

    assert app.task(base=Watched, bind=True, name="swap")(swap).apply().get() == 3
    assert replaced == ["add"]
    assert app.task(base=Stays, bind=True, name="stay")(swap).apply().get() == "stayed"


# --- What is no task ----------------------------------------------------------------------------------


def yields() -> Any:
    yield 1


async def ayields() -> Any:
    yield 1


class Shop:
    def sell(self, x: int) -> int:
        return x

    @classmethod
    def open(cls, x: int) -> int:
        return x

    @staticmethod
    def add(x: int) -> int:
        return x


@pytest.mark.parametrize(
    ("function", "why"),
    [(yields, "it yields"), (ayields, "it yields"), (Shop.sell, "a worker has no Shop to call it on")],
    ids=["generator", "async generator", "method"],
)
def test_a_generator_function_or_a_method_is_no_task(app: Celeriac, function: Any, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why):
        app.task(function)
    with pytest.raises(ImproperlyConfigured, match=why):
        shared_task(function)
    assert function.__name__ not in str(list(app.tasks))


def test_a_method_that_needs_no_object_is_a_task(app: Celeriac) -> None:
    assert app.task(Shop.add).apply((3,)).get() == 3
    assert app.task(Shop.open).apply((3,)).get() == 3
    assert app.task(bind=True, name="bound")(Shop.sell).apply((3,)).get() == 3


# --- Overrides of sending -----------------------------------------------------------------------------


class Tenant(Task[..., Any]):
    """Adds a header to all calls."""

    def apply_async(self, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
        options["headers"] = {**(options.get("headers") or {}), "tenant": 7}
        return super().apply_async(args, kwargs, **options)


@pytest.fixture(params=["plain", "coroutine"])
def tenant(request: pytest.FixtureRequest, app: Celeriac) -> Any:
    async def add(x: int, y: int = 0) -> int:
        return x + y

    return app.task(base=Tenant, name="tenant.add")(add if request.param == "coroutine" else lambda x, y=0: x + y)


async def test_an_override_of_apply_async_is_on_each_road(app: Celeriac, tenant: Any) -> None:
    tenant.delay(1, 2)
    tenant.apply_async((1,), {"y": 2})
    tenant.s(1, 2).delay()
    tenant.s(1, 2).apply_async()
    tenant.delay_many([(1, 2), {"x": 1}])
    group(tenant.s(1, 2), tenant.s(3, 4)).delay()
    chain(tenant.s(1, 2), tenant.s(3)).delay()
    await tenant.adelay(1, 2)
    await tenant.aapply_async((1, 2))
    await tenant.s(1, 2).adelay()
    await tenant.adelay_many([(1, 2)])
    await group(tenant.s(1, 2)).adelay()
    messages = app.broker.complete(app.broker.operations().peek("default", 100))
    assert [message.headers for message in messages] == [{"tenant": 7}] * 14


def test_an_override_of_apply_async_may_have_celerys_parameters(app: Celeriac) -> None:
    class OfCelery(Task[..., Any]):
        def apply_async(self, args: Any = None, kwargs: Any = None, task_id: Any = None, producer: Any = None,
                        link: Any = None, link_error: Any = None, shadow: Any = None,
                        **options: Any) -> AsyncResult[Any]:  # fmt: skip
            options.update(task_id=task_id, producer=producer, link=link, link_error=link_error, shadow=shadow)
            return super().apply_async(args, kwargs, **options)

    task = app.task(base=OfCelery, name="t")(lambda *args: None)
    task.delay(1)
    task.apply_async(priority=7)
    (task.s(1) | task.s()).delay()
    with pytest.raises(UnknownOption, match="'shadow' in Celeriac"):
        task.apply_async(shadow="other")
    assert len(waiting(app)) == 3


def test_an_override_of_apply_async_makes_the_later_messages_of_workflows_too(app: Celeriac, tenant: Any) -> None:
    told: list[dict[str, Any]] = []

    @app.task(bind=True, base=Tenant)
    def tell(self: Any, *args: Any) -> int:
        told.append(self.request.headers)
        return 1

    with running_worker(app):
        assert chain(tenant.s(1, 2), tell.s()).delay().get(timeout=PATIENCE) == 1
        assert group(tell.si(), tell.si()).delay().get(timeout=PATIENCE) == [1, 1]
        assert (group(tell.s(1), tell.s(1)) | tell.s()).delay().get(timeout=PATIENCE) == 1
        assert tell.map([1, 2]).delay().get(timeout=PATIENCE) == [1, 1]
        assert list(app.map(tenant, [1, 2])) == [1, 2]
        result = tenant.apply_async((1,), link=tell.s(), headers={"mine": 1})
        assert result.get(timeout=PATIENCE) == 1
    assert told[:6] == [{"tenant": 7}] * 6


def test_an_override_that_sends_nothing_is_refused_in_a_workflow(app: Celeriac) -> None:
    class Later(Task[..., Any]):
        def apply_async(self, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
            return None

    task = app.task(base=Later, name="later")(lambda: None)
    assert task.delay() is None
    for workflow in (group(task.s(), task.s()), chain(task.si(), task.si())):
        with pytest.raises(WorkflowError, match=r"later cannot be part of a workflow: .*Later called .* 0 times"):
            workflow.delay()
    assert waiting(app) == []


def test_an_override_may_send_by_name_and_may_send_others(app: Celeriac) -> None:
    class ByName(Task[..., Any]):
        def apply_async(self, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
            if self.name != "audit":
                audit.delay(self.name)
            return self.app.send_task(self.name, args, kwargs, **{**options, "priority": 9})

    audit: Any = app.task(base=ByName, name="audit")(lambda name: None)
    task = app.task(base=ByName, name="t")(lambda: None)
    task.delay()
    group(task.s(), task.s()).delay()
    asyncio.run(task.adelay())
    assert sorted((message.task, message.priority) for message in waiting(app)) == [("audit", 9)] * 4 + [("t", 9)] * 4


async def test_an_override_of_delay_is_on_the_road_of_delay(app: Celeriac) -> None:
    calls: list[tuple[Any, ...]] = []

    class Counted(Task[..., Any]):
        def delay(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return super().delay(*args, **kwargs)

    class Both(Counted, Tenant):
        pass

    for base, headers in ((Counted, {}), (Both, {"tenant": 7})):
        calls.clear()
        task: Any = app.task(base=base, name=base.__name__)(lambda x: None)
        result = task.delay(1)
        await task.adelay(2)
        task.delay_many([(3,), {"x": 4}])
        assert calls == [(1,), (2,), (3,), ()]
        [message] = [message for message in waiting(app) if message.id == result.id]
        assert message.headers == headers


def test_many_calls_of_an_overriding_task_are_checked_first_and_tell_which_were_sent(app: Celeriac) -> None:
    class Third(Task[..., Any]):
        sent = 0

        def apply_async(self, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
            self.sent += 1
            if self.sent == 3:
                raise ConnectionError("no")
            return super().apply_async(args, kwargs, **options)

    task = app.task(base=Third, name="t")(lambda x: None)
    with pytest.raises(TypeError, match="too many positional"):
        task.delay_many([(1,), (1, 2)])
    assert waiting(app) == []
    with pytest.raises(ConnectionError) as caught:
        task.delay_many([(1,), (2,), (3,), (4,)])
    assert [result.id for result in caught.value.sent] == [message.id for message in waiting(app)]  # type: ignore[attr-defined]
    with pytest.raises(UnknownOption, match="task_id applies to a single call"):
        task.delay_many([(1,)], task_id="i")


def test_an_overriding_task_runs_eagerly(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True)
    task = app.task(base=Tenant, bind=True, name="t")(lambda self, x: [self.request.headers, x])
    assert task.delay(1).get() == [{"tenant": 7}, 1]
    assert group(task.s(1), task.s(2)).delay().get() == [[{"tenant": 7}, 1], [{"tenant": 7}, 2]]
    assert [result.get() for result in task.delay_many([(1,)])] == [[{"tenant": 7}, 1]]


async def test_apply_async_can_be_replaced_in_a_test(app: Celeriac, monkeypatch: pytest.MonkeyPatch) -> None:
    add = app.task(name="add")(lambda x: x)
    for _ in range(2):
        with mock.patch.object(add, "apply_async", return_value="sent") as replaced, monkeypatch.context() as patch:
            assert add.delay(1) == "sent"
            assert await add.adelay(2) == "sent"
            assert add.delay_many([(3,)]) == ["sent"]
            assert [call.args[0] for call in replaced.call_args_list] == [(1,), (2,), (3,)]
            patch.setattr(add, "apply_async", lambda args, kwargs: args)
            assert add.delay(4) == (4,)
        assert not add.overrides_sending
        assert add.delay(5).id
    assert len(await app.broker.operations().peek("default", 10)) == 2


def test_a_plain_task_takes_the_short_road(app: Celeriac) -> None:
    assert not app.task(name="t")(lambda: None).overrides_sending
    assert not app.task(name="noted", base=Noted)(lambda: None).overrides_sending


# --- Shared tasks without an app ----------------------------------------------------------------------


def test_a_shared_task_needs_no_app_to_be_called_and_looked_at(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    none: list[Any] = []
    for where in ("current_app.apps", "shared._apps"):
        monkeypatch.setattr(f"celeriac.tasks.{where}", none)

    @shared_task(name="lib.double", bind=True, max_retries=4)
    def double(self: Any, x: int) -> int:
        """Double."""
        self.update_state("DOUBLING", {"x": x})
        return x * 2 if self.request.called_directly else 0

    assert double(2) == 4
    assert (double.__name__, double.__doc__, double.__module__) == ("double", "Double.", __name__)
    assert (double.name, double.max_retries, hasattr(double, "delay"), hasattr(double, "nothing")) == (
        "lib.double", 4, True, False
    )  # fmt: skip
    with pytest.raises(ImproperlyConfigured, match="There is no app yet"):
        double.delay(2)
    signature = double.s(2)
    app = make_app()
    assert double.app is app
    assert signature.apply().get() == 0


LIBRARY = '''
from celeriac import shared_task

@shared_task
def add(x, y):
    """
    >>> add(1, 2)
    3
    """
    return x + y

def test_add():
    assert add(1, 2) == 3
'''


def test_pytest_collects_a_module_with_shared_tasks_and_no_app(tmp_path: Path) -> None:
    (tmp_path / "test_library.py").write_text(LIBRARY)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", "test_library.py"]
    ran = subprocess.run(command, cwd=tmp_path, env=without_settings(), stdout=subprocess.PIPE, text=True)
    assert "2 passed" in ran.stdout
