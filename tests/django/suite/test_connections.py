"""Database connections of workers: between tasks, and over forks. PostgreSQL, whose sessions can be seen and ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection
from shop import tasks
from shop.models import Order

from celeriac.contrib.django.connections import IDLE_SECONDS
from conftest import FOLDER, Worker
from tests.patience import PATIENCE, wait_for

pytestmark = pytest.mark.skipif(connection.vendor != "postgresql", reason="it looks at sessions of PostgreSQL")


def get(result):
    return result.get(timeout=PATIENCE)


def sessions() -> set[int]:
    """Return the sessions of other processes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                       "AND pid <> pg_backend_pid() AND backend_type = 'client backend'")  # fmt: skip
        return {pid for (pid,) in cursor.fetchall()}


def end(pid: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 60000)", [pid])


@pytest.fixture(scope="class")
def usual(database: None) -> Iterator[Worker]:
    """A worker with Django's default, CONN_MAX_AGE = 0, for these tests alone."""
    started = Worker(BAZAAR_CONN_MAX_AGE="0").ready()
    yield started
    started.stop()


@pytest.fixture(scope="class")
def persistent(database: None) -> Iterator[Worker]:
    """A worker whose connections stay open, for these tests alone: no other may receive their tasks."""
    started = Worker(BAZAAR_CONN_MAX_AGE="null").ready()
    yield started
    started.stop()


def test_a_long_transaction_holds_no_other_task_up(start_worker: Callable[..., Worker]) -> None:
    start_worker("-c", "2").ready()
    Order.objects.create(number="C4")
    Order.objects.create(number="C5")
    long = tasks.hold_transaction.delay("C4", "long")
    wait_for((FOLDER / "long-reached").exists, "the long transaction")
    for state in ("one", "two", "three"):
        get(tasks.mark.delay("C5", state))
    assert Order.objects.get(number="C4").state == "new"
    assert not long.ready()
    (FOLDER / "long").touch()
    assert get(long) == "held"


def test_children_inherit_no_connection_that_was_opened_at_the_start(start_worker: Callable[..., Worker]) -> None:
    worker = start_worker(BAZAAR_OPENS="1").ready()
    opened = int((Path(settings.FOLDER) / "opened").read_text())
    assert opened not in sessions(), worker.text()
    assert get(tasks.backend_session.delay()) != opened


def test_a_process_that_is_forked_from_this_one_keeps_its_hands_off_this_ones_connection() -> None:
    before = tasks.session()
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            os.write(writer, json.dumps(tasks.session()).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert int(os.read(reader, 100)) != before
    assert tasks.session() == before
    os.close(reader)
    os.close(writer)


class TestByDefault:
    def test_by_default_a_connection_is_closed_after_its_task(self, usual: Worker) -> None:
        first = get(tasks.backend_session.delay())
        wait_for(lambda: first not in sessions(), "the end of the session")
        assert get(tasks.backend_session.delay()) != first
        third = get(tasks.coroutine_session.delay())
        wait_for(lambda: third not in sessions(), "the end of the session of a coroutine task")
        wait_for(lambda: not sessions(), "the end of all sessions")

    def test_threads_of_an_event_loop_close_their_connections(self, usual: Worker) -> None:
        pid, _ = get(tasks.thread_session.delay())
        wait_for(lambda: pid not in sessions(), "the end of the session of a thread")


class TestConnectionsThatStayOpen:
    def test_many_coroutine_tasks_share_one_connection(self, persistent: Worker) -> None:
        results = [tasks.count_orders.delay() for _ in range(100)]
        assert [get(result) for result in results] == [0] * 100
        assert len(sessions()) == 1

    def test_a_connection_without_an_age_limit_serves_all_tasks(self, persistent: Worker) -> None:
        first = get(tasks.backend_session.delay())
        assert [get(tasks.backend_session.delay()) for _ in range(3)] == [first] * 3
        other = get(tasks.coroutine_session.delay())
        assert other != first
        assert [get(tasks.coroutine_session.delay()) for _ in range(3)] == [other] * 3

    def test_a_connection_that_breaks_while_it_is_idle_fails_no_task(self, persistent: Worker) -> None:
        first, other = get(tasks.backend_session.delay()), get(tasks.coroutine_session.delay())
        end(first)
        end(other)
        time.sleep(IDLE_SECONDS * 1.1)  # it is this time that a connection has to be idle to be tried
        assert get(tasks.backend_session.delay()) != first
        assert get(tasks.coroutine_session.delay()) != other

    def test_a_connection_that_breaks_in_a_task_fails_that_task_alone(self, persistent: Worker) -> None:
        Order.objects.create(number="C1")
        pid = get(tasks.backend_session.delay())
        result = tasks.hold_transaction.delay("C1", "broken")
        wait_for((FOLDER / "broken-reached").exists, "the transaction")
        end(pid)
        (FOLDER / "broken").touch()
        assert "terminating connection" in str(result.get(timeout=PATIENCE, propagate=False))
        assert get(tasks.mark.delay("C1", "fine"))
        assert Order.objects.get(number="C1").state == "fine"

    def test_a_transaction_that_a_task_leaves_open_is_rolled_back_and_takes_no_later_task_in(
        self, persistent: Worker
    ) -> None:
        Order.objects.create(number="C2")
        Order.objects.create(number="C3")
        child = get(tasks.leave_transaction_open.delay("C2"))
        assert get(tasks.mark.delay("C3", "paid")) == child, "it was the same process"
        assert Order.objects.get(number="C3").state == "paid"
        assert Order.objects.get(number="C2").state == "new"
        wait_for(lambda: "left a transaction of the database 'default' open" in persistent.text(), "the warning")

    def test_a_soft_time_limit_in_a_transaction_rolls_it_back(self, persistent: Worker) -> None:
        Order.objects.create(number="C6")
        error = tasks.too_long.delay("C6").get(timeout=PATIENCE, propagate=False)
        assert type(error).__name__ == "SoftTimeLimitExceeded"
        assert Order.objects.get(number="C6").state == "new"
        get(tasks.mark.delay("C6", "after"))
        assert Order.objects.get(number="C6").state == "after"

    def test_a_child_that_is_killed_in_a_transaction_runs_it_again_from_the_start(self, persistent: Worker) -> None:
        Order.objects.create(number="C7")
        assert get(tasks.die_in_transaction.delay("C7", "died")) == "half done"
        assert (FOLDER / "died").exists()

    def test_a_fork_in_a_task_gets_a_connection_of_its_own_and_leaves_the_other_intact(
        self, persistent: Worker
    ) -> None:
        before, forked, after = get(tasks.sessions_over_a_fork.delay())
        assert before == after
        assert forked != before
