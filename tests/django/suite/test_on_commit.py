"""`delay_on_commit`: what is sent, when, and what is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from bazaar import app
from django.db import connection, transaction
from django.test import TestCase
from shop.models import Order
from shop.tasks import add, mark, total

from celeriac import Celeriac, Task
from celeriac.errors import ArgumentsError, BrokerUnavailable, CeleriacError, EncodeError
from tests.patience import PATIENCE


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list:
    """What is published, in place of publishing it."""
    messages: list = []
    monkeypatch.setattr(app.broker, "publish", messages.extend)
    return messages


class Undo(Exception):
    pass


@contextmanager
def undone() -> Iterator[None]:
    """A block of `atomic` that is rolled back."""
    with suppress(Undo), transaction.atomic():
        yield
        raise Undo


def test_a_task_is_sent_after_the_commit_and_finds_what_was_saved(worker) -> None:
    with transaction.atomic():
        Order.objects.create(number="A1", total=42)
        result = total.delay_on_commit("A1")
        assert result.state == "PENDING"
    assert result.get(timeout=PATIENCE) == 42


def test_nothing_is_sent_before_the_commit(sent: list) -> None:
    with transaction.atomic():
        result = add.delay_on_commit(1, 2)
        assert sent == []
    assert [message.id for message in sent] == [result.id]


def test_nothing_is_sent_by_a_transaction_that_is_rolled_back(sent: list) -> None:
    with undone():
        add.delay_on_commit(1, 2)
    assert sent == []


def test_without_a_transaction_it_is_sent_at_once(sent: list) -> None:
    result = add.delay_on_commit(1, 2)
    assert [message.id for message in sent] == [result.id]


def test_an_inner_block_sends_nothing_before_the_outer_one_commits(sent: list) -> None:
    with transaction.atomic():
        with transaction.atomic():
            first = add.delay_on_commit(1, 2)
        second = add.delay_on_commit(3, 4)
        assert sent == []
    assert [message.id for message in sent] == [first.id, second.id]


def test_an_inner_block_that_is_rolled_back_takes_its_own_tasks_along(sent: list) -> None:
    with transaction.atomic():
        first = add.delay_on_commit(1, 2)
        with undone():
            add.delay_on_commit(3, 4)
        last = add.delay_on_commit(5, 6)
    assert [message.id for message in sent] == [first.id, last.id]


def test_a_block_of_another_database_does_not_hold_a_task_back(sent: list) -> None:
    with transaction.atomic(using="archive"):
        add.delay_on_commit(1, 2)
        assert len(sent) == 1
        add.apply_async_on_commit((3, 4), using="archive")
        assert len(sent) == 1
    assert len(sent) == 2


def test_wrong_arguments_raise_at_the_call(sent: list) -> None:
    with transaction.atomic():
        with pytest.raises(ArgumentsError, match="'y' is missing"):
            add.delay_on_commit(1)
        with pytest.raises(EncodeError, match=r"'x' of shop\.tasks\.add"):
            add.delay_on_commit(object(), 1)
    assert sent == []


def test_arguments_are_those_of_the_call_even_if_they_change_before_the_commit(sent: list) -> None:
    from shop.tasks import plain

    with transaction.atomic():
        items = [1]
        plain.delay_on_commit(items)
        items.append(2)
    assert sent[0].body == b"[[[1]],{}]"


def test_countdown_and_expiry_begin_with_the_commit(sent: list, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 1_000_000_000.0
    monkeypatch.setattr(app.clock, "now", lambda: moment)
    with transaction.atomic():
        add.apply_async_on_commit((1, 2), countdown=60, expires=600)
        add.apply_async_on_commit((1, 2), eta=datetime.fromtimestamp(moment + 60, UTC) + timedelta(0))
        moment += 3600
    assert (sent[0].due_at, sent[0].expires_at, sent[0].sent_at) == (moment + 60, moment + 600, moment)
    assert sent[1].due_at == moment - 3540


def test_options_of_a_call_are_taken(sent: list) -> None:
    with transaction.atomic():
        result = add.apply_async_on_commit((1,), {"y": 2}, queue="reports", priority=9, task_id="my-own-id")
    assert result.id == "my-own-id"
    assert (sent[0].id, sent[0].queue, sent[0].priority) == ("my-own-id", "reports", 9)


def test_a_broker_that_is_down_fails_the_call_that_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    def down(messages: object) -> None:
        raise BrokerUnavailable("The broker is down.")

    monkeypatch.setattr(app.broker, "publish", down)
    with ExitStack() as stack:
        stack.enter_context(pytest.raises(BrokerUnavailable))
        stack.enter_context(transaction.atomic())
        Order.objects.create(number="A2")
        add.delay_on_commit(1, 2)
    assert Order.objects.filter(number="A2").exists()


def test_with_robust_a_broker_that_is_down_is_logged(monkeypatch: pytest.MonkeyPatch,
                                                     caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    def down(messages: object) -> None:
        raise BrokerUnavailable("The broker is down.")

    monkeypatch.setattr(app.broker, "publish", down)
    with transaction.atomic():
        add.apply_async_on_commit((1, 2), robust=True)
    assert "The broker is down." in caplog.text


def test_an_override_of_apply_async_is_called_after_the_commit_with_the_id_of_the_result(sent: list) -> None:
    calls: list = []

    class Counting(Task):
        def apply_async(self, args=(), kwargs=None, **options):
            calls.append(options)
            return super().apply_async(args, kwargs, **options)

    counted = app.task(name="test.counted", base=Counting)(lambda x: x)
    try:
        with transaction.atomic():
            result = counted.delay_on_commit(1)
            with pytest.raises(ArgumentsError):
                counted.delay_on_commit()
            assert calls == []
        assert [message.id for message in sent] == [result.id]
        assert calls == [{"task_id": result.id}]
    finally:
        del app.tasks["test.counted"]


def test_links_that_make_a_workflow_are_sent_after_the_commit(worker) -> None:
    with transaction.atomic():
        result = add.apply_async_on_commit((1, 2), link=add.s(3) | add.s(4))
        assert result.state == "PENDING"
    assert result.get(timeout=PATIENCE) == 3


@pytest.fixture(scope="session")
def celeriac_project() -> Celeriac:
    return app


def test_with_the_fixture_of_a_worker_a_transactional_test_sees_what_its_task_has_done(celeriac_worker) -> None:
    with transaction.atomic():
        Order.objects.create(number="A5")
        result = mark.delay_on_commit("A5", "paid")
    assert result.get(timeout=PATIENCE) == os.getpid()
    assert Order.objects.get(number="A5").state == "paid"


class EagerTests(TestCase):
    """How users test: in a transaction that never commits, with tasks that run in the test's own process."""

    databases = "__all__"

    def setUp(self) -> None:
        app.conf.task_always_eager = True
        self.addCleanup(setattr, app.conf, "task_always_eager", False)

    def test_captured_callbacks_run_the_task(self) -> None:
        Order.objects.create(number="A3", total=7)
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            result = total.delay_on_commit("A3")
            assert result.state == "PENDING"
        assert len(callbacks) == 1
        assert result.get() == 7
        assert result.state == "SUCCESS"

    def test_a_result_before_the_commit_says_what_to_do(self) -> None:
        result = add.delay_on_commit(1, 2)
        with pytest.raises(CeleriacError, match="captureOnCommitCallbacks"):
            result.get()

    def test_an_eager_task_uses_the_transaction_of_the_test(self) -> None:
        Order.objects.create(number="A4", total=8)
        assert total.delay("A4").get() == 8
        assert connection.in_atomic_block


def test_tasks_of_an_app_without_django_know_no_transaction() -> None:
    assert Celeriac("other", environ={}).framework is None
