"""The broker in the file of Django's database: what is sent is there if, and only if, the transaction commits."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import django
import mail.tasks
import pytest
from bazaar import app
from django.core import checks
from django.db import IntegrityError, connection, connections, transaction
from django.db.transaction import TransactionManagementError
from shop.models import Order
from shop.tasks import add, mark, total

from celeriac import Celeriac, chord
from celeriac.contrib.django.shared_file import _check_transaction_mode
from celeriac.errors import BrokerMisconfigured, BrokerUnavailable, ForeignDatabase
from conftest import FOLDER, Worker
from tests.patience import PATIENCE

if django.VERSION >= (6, 0):
    from django.tasks.exceptions import TaskResultDoesNotExist
else:
    from django_tasks.exceptions import TaskResultDoesNotExist

pytestmark = pytest.mark.skipif("bazaar.sqlite3" not in app.broker_url, reason="the broker has a file of its own")

UNSERVED = "reports"
"""The worker of these tests does not receive from this queue."""


class Undo(Exception):
    pass


@contextmanager
def undone(using: str = "default") -> Iterator[None]:
    """A block of `atomic` that is rolled back."""
    with suppress(Undo), transaction.atomic(using=using):
        yield
        raise Undo


@pytest.fixture(scope="module")
def worker(database: None) -> Iterator[Worker]:
    started = Worker("-Q", "default", "-c", "2").ready()
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def empty() -> None:
    app.broker.complete(app.broker.operations().purge(UNSERVED))


def waiting(path: str | Path = FOLDER / "bazaar.sqlite3") -> list[str]:
    """Return the ids of messages that others see in a queue without a worker."""
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as other:
        rows = other.execute("SELECT message FROM messages WHERE queue = ?", (UNSERVED,)).fetchall()
    return [app.broker.codec.decode(raw, UNSERVED).id for (raw,) in rows]


def rows_here() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM messages WHERE queue = %s", [UNSERVED])
        return int(cursor.fetchone()[0])


# --- Commit and rollback ------------------------------------------------------------------------------


@pytest.mark.parametrize("send", [total.delay, total.delay_on_commit])
def test_a_worker_runs_what_a_transaction_has_sent_and_finds_what_it_has_saved(worker: Worker, send: Any) -> None:
    number = f"S1-{send.__name__}"
    with transaction.atomic():
        Order.objects.create(number=number, total=42)
        result = send(number)
        assert result.state == "PENDING"
    assert result.get(timeout=PATIENCE) == 42


@pytest.mark.parametrize("send", [add.apply_async, add.apply_async_on_commit])
def test_a_message_is_in_the_transaction_before_it_commits_and_others_see_it_afterwards(send: Any) -> None:
    with transaction.atomic():
        Order.objects.create(number="S2")
        result = send((1, 2), queue=UNSERVED)
        assert rows_here() == 1
        assert waiting() == []
    assert waiting() == [result.id]


@pytest.mark.parametrize("send", [add.apply_async, add.apply_async_on_commit])
def test_a_transaction_that_is_rolled_back_has_sent_nothing(send: Any) -> None:
    with undone():
        Order.objects.create(number="S3")
        send((1, 2), queue=UNSERVED)
        assert rows_here() == 1
    assert waiting() == []


def test_an_inner_block_that_is_rolled_back_takes_its_own_messages_along() -> None:
    with transaction.atomic():
        first = add.apply_async((1, 2), queue=UNSERVED)
        with undone():
            add.apply_async((3, 4), queue=UNSERVED)
            with transaction.atomic():
                add.apply_async_on_commit((5, 6), queue=UNSERVED)
        last = add.apply_async((7, 8), queue=UNSERVED)
    assert sorted(waiting()) == sorted([first.id, last.id])


def test_many_messages_at_once_and_such_with_a_time_and_an_id_of_their_own_are_part_of_it() -> None:
    with undone():
        add.delay_many([(x, x) for x in range(100)], queue=UNSERVED)
        add.apply_async((1, 2), queue=UNSERVED, countdown=3600)
        add.apply_async((1, 2), queue=UNSERVED, task_id="my-own")
        assert rows_here() == 102
    assert waiting() == []
    with transaction.atomic():
        sent = add.delay_many([(x, x) for x in range(100)], queue=UNSERVED)
        add.apply_async((1, 2), queue=UNSERVED, countdown=3600, task_id="my-own")
    assert set(waiting()) == {result.id for result in sent} | {"my-own"}


def test_workflows_are_part_of_it(worker: Worker) -> None:
    with undone():
        gone = chord([add.s(1, 1), add.s(2, 2)])(add.s(1).set(queue=UNSERVED))
    assert app.backend.trees([gone.id]) == {}
    with transaction.atomic():
        result = (add.s(1, 2) | add.s(3) | add.s(4)).delay()
        linked = add.apply_async_on_commit((1, 2), link=add.s(3) | add.s(4))
    assert result.get(timeout=PATIENCE) == 10
    assert linked.get(timeout=PATIENCE) == 3


def test_tasks_of_django_are_part_of_it(worker: Worker) -> None:
    kept, gone = [], []
    for alias in ("default", "committed"):
        with undone():
            gone.append(mail.tasks.add.using(backend=alias).enqueue(1, y=2))
        with transaction.atomic():
            kept.append(mail.tasks.add.using(backend=alias).enqueue(1, y=2))
    assert [app.AsyncResult(result.id).get(timeout=PATIENCE) for result in kept] == [3, 3]
    for result in gone:
        with pytest.raises(TaskResultDoesNotExist):
            mail.tasks.add.get_result(result.id)


def test_a_transaction_of_another_database_has_no_part_in_it() -> None:
    with transaction.atomic(using="archive"):
        now = add.apply_async((1, 2), queue=UNSERVED)
        later = add.apply_async_on_commit((3, 4), using="archive", queue=UNSERVED)
        assert waiting() == [now.id]
    assert set(waiting()) == {now.id, later.id}


def test_with_robust_a_message_is_sent_after_the_commit() -> None:
    with transaction.atomic():
        result = add.apply_async_on_commit((1, 2), robust=True, queue=UNSERVED)
        assert rows_here() == 0
    assert waiting() == [result.id]


def test_an_id_that_is_there_already_is_not_sent_twice_and_does_no_harm_to_the_transaction() -> None:
    add.apply_async((1, 2), queue=UNSERVED, task_id="twice")
    with transaction.atomic():
        Order.objects.create(number="S4")
        add.apply_async((1, 2), queue=UNSERVED, task_id="twice")
    assert waiting() == ["twice"]
    assert Order.objects.filter(number="S4").exists()


def test_a_broken_transaction_refuses_messages_as_it_refuses_queries() -> None:
    Order.objects.create(number="S5")
    with undone():
        with suppress(IntegrityError):
            Order.objects.create(number="S5")
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            add.apply_async((1, 2), queue=UNSERVED)
    assert waiting() == []


def test_a_revocation_is_part_of_it() -> None:
    result = add.apply_async((1, 2), queue=UNSERVED, countdown=3600)
    with undone():
        result.revoke()
    find = app.broker.operations().find([result.id])
    assert app.broker.complete(find)[result.id][0] == "scheduled"


# --- Crashes and crowds -------------------------------------------------------------------------------


def in_a_child(work: Callable[[], Any]) -> int:
    """Run a function in a forked process; return how that has ended, as `os.waitpid` does."""
    if not (pid := os.fork()):
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_process_that_is_killed_before_the_commit_has_sent_and_saved_nothing() -> None:
    def work() -> None:
        with transaction.atomic():
            Order.objects.create(number="S6")
            add.apply_async((1, 2), queue=UNSERVED)
            add.apply_async_on_commit((1, 2), queue=UNSERVED)
            die()

    assert os.waitpid(in_a_child(work), 0)[1] == signal.SIGKILL
    assert waiting() == []
    assert not Order.objects.filter(number="S6").exists()


def test_a_process_that_is_killed_right_after_the_commit_has_sent_everything(worker: Worker) -> None:
    """It has not even told the workers, which find the message when they look again."""

    def work() -> None:
        with transaction.atomic():
            transaction.on_commit(die)
            Order.objects.create(number="S7", total=7)
            total.apply_async_on_commit(("S7",), task_id="after the commit")

    assert os.waitpid(in_a_child(work), 0)[1] == signal.SIGKILL
    assert app.AsyncResult("after the commit").get(timeout=PATIENCE) == 7


def test_many_writers_and_a_worker_get_in_nobodys_way(worker: Worker) -> None:
    """Each writer commits some transactions and rolls others back, while the worker writes to the same file."""
    reader, writer = os.pipe()

    def work(name: int) -> None:
        ids: dict[bool, list[str]] = {True: [], False: []}
        for number in range(12):
            keeps = number % 3 != 0
            with transaction.atomic() if keeps else undone():
                Order.objects.create(number=f"W{name}-{number}")
                ids[keeps].append(mark.delay(f"W{name}-{number}", "paid").id)
        os.write(writer, json.dumps([ids[True], ids[False]]).encode() + b"\n")

    writers = [in_a_child(lambda name=name: work(name)) for name in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in writers] == [0] * 4
    os.close(writer)
    with os.fdopen(reader) as lines:
        sent = [json.loads(line) for line in lines]
    for kept, _ in sent:
        assert len(kept) == 8
        for id in kept:
            app.AsyncResult(id).get(timeout=PATIENCE)
    assert Order.objects.filter(number__startswith="W", state="paid").count() == Order.objects.count() == 32
    gone = [id for _, lost in sent for id in lost]
    assert len(gone) == 16
    assert app.backend.fetch(gone) == {}


# --- The tables, beside Django's ----------------------------------------------------------------------


@pytest.fixture
def archived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A task whose broker is in another database of Django's, where Celeriac has not been yet."""
    path = tmp_path / "archive.sqlite3"
    connections["archive"].close()
    monkeypatch.setitem(connections.settings["archive"], "NAME", path)
    with connections["archive"].cursor() as cursor:
        cursor.execute("CREATE TABLE stock (piece TEXT)")
    other = Celeriac("other", environ={})
    other.config_from_object("django.conf:settings", namespace="CELERIAC")
    other.conf.update(broker_url=f"sqlite:///{path}", result_backend=f"sqlite:///{path}", broker_publish_timeout=0.2)
    yield other.task(name="archived")(lambda: None)
    other.close()
    connections["archive"].close()


def tables() -> set[str]:
    return set(connections["archive"].introspection.table_names())


def test_the_first_message_makes_the_tables_and_a_rollback_takes_them_along(archived: Any, tmp_path: Path) -> None:
    with undone("archive"):
        archived.apply_async(queue=UNSERVED)
        assert "ready" in tables()
    assert tables() == {"stock"}
    with transaction.atomic(using="archive"):
        result = archived.apply_async(queue=UNSERVED)
    assert {"ready", "stock"} <= tables()
    assert waiting(tmp_path / "archive.sqlite3") == [result.id]
    later = archived.apply_async(queue=UNSERVED)
    assert set(waiting(tmp_path / "archive.sqlite3")) == {result.id, later.id}


def test_without_a_transaction_the_tables_are_made_as_in_a_file_of_its_own(archived: Any) -> None:
    archived.apply_async(queue=UNSERVED)
    assert {"ready", "stock"} <= tables()


def test_waiting_workers_are_woken_by_the_commit_and_not_before(archived: Any) -> None:
    archived.apply_async(queue=UNSERVED)
    watch = archived.app.broker.database.watch()
    watch.wait(watch.generation, 0)
    before = watch.generation
    with transaction.atomic(using="archive"):
        archived.apply_async(queue=UNSERVED)
        watch.wait(before, 0)
        assert watch.generation == before
    watch.wait(before, PATIENCE)
    assert watch.generation > before


@pytest.mark.parametrize("within", [True, False])
def test_a_table_of_the_project_that_has_the_name_of_one_of_celeriacs_is_left_alone(archived: Any,
                                                                                    within: bool) -> None:  # fmt: skip
    with connections["archive"].cursor() as cursor:
        cursor.execute("CREATE TABLE schedules (lesson TEXT)")
    with transaction.atomic(using="archive") if within else nullcontext():
        with pytest.raises(BrokerMisconfigured, match=r"schedules already exists.*a file of its own"):
            archived.apply_async(queue=UNSERVED)
        with connections["archive"].cursor() as cursor:
            cursor.execute("INSERT INTO schedules VALUES ('latin')")
    assert tables() == {"stock", "schedules"}


@pytest.mark.parametrize("pragma", ["user_version = 7", "application_id = 1"])
def test_a_file_that_another_program_has_marked_is_refused(archived: Any, pragma: str) -> None:
    with connections["archive"].cursor() as cursor:
        cursor.execute(f"PRAGMA {pragma}")
    with pytest.raises(ForeignDatabase, match="not a Celeriac database"):
        archived.apply_async(queue=UNSERVED)
    assert tables() == {"stock"}


def test_another_connection_would_have_waited_for_the_lock(archived: Any, tmp_path: Path) -> None:
    """What the same call does in a thread of the file's own, while this transaction has written."""
    archived.apply_async(queue=UNSERVED)
    with transaction.atomic(using="archive"):
        archived.apply_async(queue=UNSERVED)
        archived.app.broker.database._open_transaction = None
        with pytest.raises(BrokerUnavailable, match="locked by other processes"):
            archived.apply_async(queue=UNSERVED)


def test_a_database_of_tests_is_another_file(archived: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archived.apply_async(queue=UNSERVED)
    connections["archive"].close()
    monkeypatch.setitem(connections.settings["archive"], "NAME", tmp_path / "test_archive.sqlite3")
    with undone("archive"):
        with connections["archive"].cursor() as cursor:
            cursor.execute("CREATE TABLE stock (piece TEXT)")
        archived.apply_async(queue=UNSERVED)
        assert tables() == {"stock"}
    assert len(waiting(tmp_path / "archive.sqlite3")) == 2


def test_the_system_check_asks_for_transactions_that_begin_with_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _check_transaction_mode() == []
    monkeypatch.delitem(connections.settings["default"]["OPTIONS"], "transaction_mode")
    (found,) = checks.run_checks(databases=["default"])
    assert (found.id, found.level) == ("celeriac.W001", checks.WARNING)
    assert "'default'" in found.msg
    assert "IMMEDIATE" in found.hint
