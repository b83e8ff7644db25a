"""The backend for Django's task framework, held to what Django's own tests demand of backends, with a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import django
import pytest
from bazaar import app
from django.core.exceptions import SuspiciousOperation
from django.db import transaction
from django.test import override_settings
from django.utils import timezone
from mail.tasks import task

from celeriac import Celeriac
from celeriac.contrib.django.task_framework import base, exceptions, framework, signals
from celeriac.contrib.django.tasks import CeleriacBackend, celeriac_priority
from celeriac.inspector import Inspector
from celeriac.model.serialization import loads
from celeriac.ports.abilities import Ability
from conftest import FOLDER
from mail import tasks
from tests.patience import PATIENCE, wait_for

Status = base.TaskResultStatus
default = framework.task_backends["default"]
InvalidTask = exceptions.InvalidTask if django.VERSION >= (6, 0) else exceptions.InvalidTaskError


def ended(result: Any) -> Any:
    """Wait until a result is final."""

    def is_finished() -> bool:
        result.refresh()
        return result.is_finished

    wait_for(is_finished, f"the end of {result}")
    return result


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list:
    """What is published, in place of publishing it."""
    messages: list = []
    monkeypatch.setattr(app.broker, "publish", messages.extend)
    return messages


# --- The backend --------------------------------------------------------------------------------------


def test_it_has_all_features() -> None:
    assert isinstance(default, CeleriacBackend)
    assert default.supports_defer
    assert default.supports_async_task
    assert default.supports_get_result
    assert default.supports_priority


def test_it_gets_no_results_where_they_go_to_their_callers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Celeriac("other", broker_url="amqp://nowhere", result_backend="rpc://", environ={})
    backend = CeleriacBackend("default", {})
    monkeypatch.setitem(backend.__dict__, "app", other)
    assert not backend.supports_get_result
    with pytest.raises(NotImplementedError):
        backend.get_result("some-id")


def test_its_checks_find_nothing_wrong() -> None:
    assert list(default.check()) == []
    assert list(framework.task_backends["committed"].check()) == []


def test_its_checks_name_unknown_options_and_a_missing_app() -> None:
    backend = CeleriacBackend("default", {"OPTIONS": {"enqueue_on_comit": True, "app": "bazaar.celeriac.ap"}})
    first, second = backend.check()
    assert first.id == "celeriac.E001"
    assert "Did you mean 'enqueue_on_commit'?" in first.msg
    assert second.id == "celeriac.E002"


def test_its_queues_are_those_that_workers_receive_from() -> None:
    assert {"default", "urgent"} <= app.queues


@pytest.mark.parametrize(("given", "expected"), [(-100, 0), (-50, 3), (-1, 5), (0, 5), (1, 5), (50, 7), (100, 9)])
def test_priorities_keep_their_order_in_the_ten_of_messages(given: int, expected: int) -> None:
    assert celeriac_priority(given) == expected


def test_no_higher_priority_becomes_a_lower_one() -> None:
    numbers = [celeriac_priority(priority) for priority in range(-100, 101)]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(10))


# --- Enqueueing ---------------------------------------------------------------------------------------


def test_enqueueing_returns_a_result_that_is_ready(sent: list) -> None:
    result = tasks.noop.enqueue(1, two=3)
    assert result.status == Status.READY
    assert not result.is_finished
    assert result.started_at is result.last_attempted_at is result.finished_at is None
    assert timezone.is_aware(result.enqueued_at)
    assert (result.args, result.kwargs, result.task, result.backend) == ([1], {"two": 3}, tasks.noop, "default")
    assert (result.attempts, result.errors, result.worker_ids) == (0, [], [])
    with pytest.raises(ValueError, match="Task has not finished yet"):
        _ = result.return_value
    assert [message.id for message in sent] == [result.id]
    assert len(result.id) <= 64


async def test_enqueueing_in_a_coroutine_is_the_same(worker) -> None:
    result = await tasks.aecho.aenqueue("x")
    assert result.status == Status.READY
    while not result.is_finished:
        await result.arefresh()
    assert result.return_value == "x"
    assert (await tasks.aecho.aget_result(result.id)).return_value == "x"


def test_the_message_has_the_queue_and_the_priority(sent: list) -> None:
    tasks.urgent.enqueue()
    tasks.noop.using(priority=-100).enqueue()
    assert [(message.queue, message.priority) for message in sent] == [("urgent", 7), ("default", 0)]


def test_a_task_for_later_is_scheduled_in_the_broker(sent: list) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    tasks.noop.using(run_after=later).enqueue()
    assert sent[0].due_at == pytest.approx(later.timestamp())


def test_a_task_for_later_waits_and_says_so(worker) -> None:
    later = timezone.now() + timedelta(hours=1)
    result = tasks.noop.using(run_after=later).enqueue()
    found = tasks.noop.get_result(result.id)
    assert found.status == Status.READY
    assert found.task.run_after == later
    assert found.enqueued_at == result.enqueued_at
    if not app.broker.can(Ability.SEE_SCHEDULED):
        return  # such a broker gives a scheduled message to no worker before its time, revoked or not
    app.control.revoke(result.id)
    assert ended(found).errors[0].exception_class_path == "celeriac.errors.TaskRevoked"


def test_a_naive_time_is_refused(sent: list) -> None:
    with pytest.raises(InvalidTask, match="run_after must be an aware datetime"):
        tasks.noop.using(run_after=datetime(2030, 1, 1))


def test_queues_and_priorities_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InvalidTask, match="is not valid for backend"):
        tasks.noop.using(queue_name="unknown")
    with pytest.raises(InvalidTask, match="priority must be a whole number"):
        tasks.noop.using(priority=101)
    with pytest.raises(InvalidTask, match="priority must be a whole number"):
        tasks.noop.using(priority=3.1)


def test_a_function_within_a_function_is_refused() -> None:
    with pytest.raises(InvalidTask, match="must be defined at a module level"):

        @task
        def inner() -> None:
            pass


@pytest.mark.parametrize("value", [object(), {1}, datetime.now(UTC), b"\xff"])
def test_arguments_that_are_not_json_are_refused(sent: list, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        tasks.noop.enqueue(value)
    with pytest.raises((TypeError, ValueError)):
        tasks.noop.enqueue(named=value)
    assert sent == []


def test_arguments_are_normalised(sent: list) -> None:
    result = tasks.noop.enqueue((1, 2), named=b"text")
    assert (result.args, result.kwargs) == ([[1, 2]], {"named": "text"})
    args, _ = loads(sent[0].body)
    assert args[:3] == ["mail.tasks.noop", [[1, 2]], {"named": "text"}]


def test_a_signal_tells_of_what_is_enqueued(sent: list) -> None:
    heard: list = []

    def receive(sender: type, task_result: Any, **more: Any) -> None:
        heard.append((sender, task_result.id, task_result.enqueued_at is not None, len(sent)))

    signals.task_enqueued.connect(receive)
    try:
        result = tasks.noop.enqueue()
    finally:
        signals.task_enqueued.disconnect(receive)
    assert heard == [(CeleriacBackend, result.id, True, 1)]


class Undo(Exception):
    pass


def test_tasks_are_sent_within_a_transaction_unless_the_backend_waits_for_the_commit(sent: list) -> None:
    with transaction.atomic():
        tasks.noop.enqueue()
        assert len(sent) == 1
        waiting = tasks.noop.using(backend="committed").enqueue()
        assert len(sent) == 1
        assert waiting.enqueued_at is None
    assert len(sent) == 2
    assert sent[1].id == waiting.id
    assert waiting.enqueued_at is not None
    with suppress(Undo), transaction.atomic():
        tasks.noop.using(backend="committed").enqueue()
        raise Undo
    assert len(sent) == 2


# --- Running ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [tasks.echo, tasks.aecho])
@pytest.mark.parametrize("value", [None, 1, "ä", [1, {"two": [3.5]}], {"$uuid": "no"}])
def test_the_return_value_comes_back(worker, function: Any, value: Any) -> None:
    result = ended(function.enqueue(value))
    assert result.status == Status.SUCCESSFUL
    assert result.return_value == value
    assert result.errors == []


def test_a_result_has_its_times_and_its_worker(worker) -> None:
    before = timezone.now()
    result = ended(tasks.add.enqueue(1, y=2))
    assert result.return_value == 3
    assert before <= result.enqueued_at <= result.started_at <= result.finished_at <= timezone.now()
    assert result.last_attempted_at == result.started_at
    assert result.attempts == len(result.worker_ids) == 1
    assert result.worker_ids[0].startswith("bazaar@")
    assert (result.args, result.kwargs) == ([1], {"y": 2})


@pytest.mark.parametrize(
    ("function", "exception", "text"),
    [
        (tasks.fails, ValueError, "This task failed."),
        (tasks.afails, ValueError, "This coroutine failed."),
        (tasks.exits, SystemExit, "sys.exit(3)"),
        (tasks.stops, KeyboardInterrupt, "raise KeyboardInterrupt"),
        (tasks.complex_value, TypeError, "Unsupported type"),
    ],
)
def test_a_task_that_raises_has_failed(worker, function: Any, exception: type, text: str) -> None:
    result = ended(function.enqueue())
    assert result.status == Status.FAILED
    assert result.is_finished
    with pytest.raises(ValueError, match="Task failed"):
        _ = result.return_value
    (error,) = result.errors
    assert error.exception_class is exception
    assert text in error.traceback
    assert error.traceback.startswith("Traceback (most recent call last)")
    assert result.started_at is not None
    assert result.finished_at is not None
    assert (result.task.func, result.attempts) == (function.func, 1)


def test_wrong_arguments_fail_the_task(worker) -> None:
    result = ended(tasks.add.enqueue(1, 2, 3))
    assert result.status == Status.FAILED
    assert result.errors[0].exception_class is TypeError


def test_a_task_gets_its_context(worker) -> None:
    result = ended(tasks.context_facts.enqueue("!"))
    assert result.return_value == [result.id, 1, "RUNNING", "context_facts!", 1]
    result = ended(tasks.acontext_facts.enqueue())
    assert result.return_value == [result.id, 1, "RUNNING"]


def test_a_result_says_that_its_task_runs(worker) -> None:
    result = tasks.waits.enqueue(str(FOLDER), "runs")
    wait_for((FOLDER / "runs-reached").exists, "the start")

    def is_running() -> bool:
        result.refresh()
        return result.status == Status.RUNNING and result.started_at is not None

    wait_for(is_running, "the state RUNNING")
    assert result.args == [str(FOLDER), "runs"]
    assert result.finished_at is None
    (FOLDER / "runs").touch()
    assert ended(result).return_value == "runs"


async def test_higher_priorities_run_first(worker) -> None:
    """The worker does not receive from their queue meanwhile: behind a short task, it holds one that came early."""
    inspector = Inspector(app, timeout=PATIENCE)
    assert len((await inspector.cancel_consumer("urgent")).values) == 1
    in_turn = [tasks.noop.using(priority=priority, queue_name="urgent") for priority in (-100, 0, 100, 50, -50)]
    results = [await one.aenqueue() for one in in_turn]
    assert len((await inspector.add_consumer("urgent")).values) == 1
    for result in results:
        while not result.is_finished:
            await result.arefresh()
    order = sorted(results, key=lambda result: result.started_at)
    assert [result.task.priority for result in order] == [100, 50, 0, -50, -100]


# --- Looking up ---------------------------------------------------------------------------------------


def test_a_result_is_found_by_its_id(worker) -> None:
    result = ended(tasks.urgent.using(priority=33).enqueue())
    found = default.get_result(result.id)
    assert found == result
    assert (found.task.priority, found.task.queue_name) == (33, "urgent")
    assert tasks.urgent.get_result(result.id) == result


def test_a_result_is_found_whatever_the_size_of_its_arguments(worker) -> None:
    value = "x" * 200_000
    result = ended(tasks.echo.enqueue(value))
    found = default.get_result(result.id)
    assert (found.args, found.return_value) == ([value], value)


async def test_the_result_of_a_task_that_was_purged_is_a_failure() -> None:
    if not app.broker.can(Ability.SEE_SCHEDULED):
        pytest.skip("what is scheduled is not purged")
    result = await tasks.echo.using(run_after=timezone.now() + timedelta(hours=1)).aenqueue("x" * 100_000)
    assert (await Inspector(app).purge("default"))["default"] >= 1
    found = await default.aget_result(result.id)
    assert (found.status, len(found.args[0])) == (Status.FAILED, 100_000)
    assert "TaskRevoked" in found.errors[0].exception_class_path


@pytest.mark.parametrize("id", ["123", "01a2283e-0000-7000-8000-000000000000"])
async def test_an_unknown_id_has_no_result(id: str) -> None:
    with pytest.raises(exceptions.TaskResultDoesNotExist):
        default.get_result(id)
    with pytest.raises(exceptions.TaskResultDoesNotExist):
        await default.aget_result(id)


def test_the_id_of_another_kind_of_task_has_no_result(worker) -> None:
    from shop.tasks import add

    result = add.delay(1, 2)
    assert result.get(timeout=120) == 3
    with pytest.raises(exceptions.TaskResultDoesNotExist):
        default.get_result(result.id)


async def test_the_result_of_another_task_is_refused(worker) -> None:
    result = await tasks.noop.aenqueue()
    with pytest.raises(exceptions.TaskResultMismatch):
        await tasks.echo.aget_result(result.id)


def test_a_path_that_leads_to_no_task_is_suspicious(worker) -> None:
    sent = app.tasks["django.run"].delay("mail.tasks.not_a_task", [], {}, "default", 0, None)
    assert isinstance(sent.get(timeout=120, propagate=False), SuspiciousOperation)
    with pytest.raises(SuspiciousOperation):
        default.get_result(sent.id)


# --- In this process ----------------------------------------------------------------------------------


@pytest.fixture
def eager() -> Iterator[None]:
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


@pytest.mark.parametrize("function", [tasks.echo, tasks.aecho])
def test_with_eager_tasks_the_result_is_there_at_once(eager: None, function: Any) -> None:
    result = function.enqueue(5)
    assert (result.status, result.return_value) == (Status.SUCCESSFUL, 5)
    assert result.enqueued_at <= result.started_at <= result.finished_at


def test_with_eager_tasks_a_failure_is_in_the_result(eager: None) -> None:
    result = tasks.fails.enqueue()
    assert result.status == Status.FAILED
    assert result.errors[0].exception_class is ValueError


def test_signals_tell_of_the_start_and_the_end(eager: None) -> None:
    heard: list = []

    def receive(signal: Any, task_result: Any, **more: Any) -> None:
        heard.append((names[signal], task_result.status))

    names = {signals.task_enqueued: "enqueued", signals.task_started: "started", signals.task_finished: "finished"}
    for signal in names:
        signal.connect(receive)
    try:
        for function in (tasks.noop, tasks.fails, tasks.afails):
            function.enqueue()
    finally:
        for signal in names:
            signal.disconnect(receive)
    start = [("enqueued", "READY"), ("started", "RUNNING")]
    assert heard == [*start, ("finished", "SUCCESSFUL"), *start, ("finished", "FAILED"), *start, ("finished", "FAILED")]


def test_times_are_naive_without_time_zones(eager: None) -> None:
    with override_settings(USE_TZ=False):
        result = tasks.noop.enqueue()
    assert timezone.is_naive(result.started_at)
    assert timezone.is_naive(result.finished_at)
