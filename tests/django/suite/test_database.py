"""Results in Django's database, as workers write them and as the model shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from bazaar import app
from django.core.management import call_command
from django.db import connections, transaction
from django.utils import timezone
from shop.models import Order
from shop.tasks import add, plain, total

from celeriac import chord, states
from celeriac.contrib.django.db.backend import DjangoBackend, DjangoDatabase
from celeriac.contrib.django.db.migrations import __path__ as migrations
from celeriac.contrib.django.db.models import IntervalSchedule, PeriodicTask, TaskResult
from celeriac.contrib.django.db.operations import MakeTables
from celeriac.contrib.django.db.place import place_of
from celeriac.drivers.sql.schema import VERSION
from celeriac.errors import BackendError, BackendUnavailable, ImproperlyConfigured
from celeriac.model.message import new_id
from celeriac.model.outcome import Outcome
from conftest import FOLDER, Worker
from tests.patience import PATIENCE

OUTCOME = Outcome(id="a", task="shop.tasks.add", state=states.SUCCESS, value=b"3", done_at=1_700_000_000.5)
IS_SQLITE = connections["default"].vendor == "sqlite"


@pytest.fixture(autouse=True)
def forget() -> None:
    assert isinstance(app.backend, DjangoBackend)
    TaskResult.objects.all().delete()


opened: list[DjangoDatabase] = []


def archive(name: Path | None = None) -> DjangoDatabase:
    if name is not None:
        connections.settings["archive"]["NAME"] = str(name)
    opened.append(DjangoDatabase("archive", PATIENCE))
    return opened[-1]


@pytest.fixture
def other_archive() -> Iterator[Path]:
    name = connections.settings["archive"]["NAME"]
    connections["archive"].close()
    yield FOLDER / f"{new_id()}.sqlite3"
    while opened:
        opened.pop().close()
    connections["archive"].close()
    connections.settings["archive"]["NAME"] = name


# --- Workers ------------------------------------------------------------------------------------------


def test_results_of_a_worker_are_rows(worker: Worker) -> None:
    result = add.delay(1, 2)
    assert result.get(timeout=PATIENCE) == 3
    row = TaskResult.objects.get(task_id=result.id)
    assert (row.task_name, row.status, row.result, row.worker) == ("shop.tasks.add", "SUCCESS", "3", result.worker)
    assert row.date_created <= row.date_started <= row.date_done <= timezone.now()
    assert TaskResult.objects.filter(task_name="shop.tasks.add", status="SUCCESS", date_done__lte=timezone.now(),
                                     worker__contains="bazaar").get() == row  # fmt: skip
    assert row.traceback is None


def test_a_failure_has_its_exception_its_traceback_and_the_arguments_of_the_call(worker: Worker) -> None:
    result = total.delay(number="nowhere")
    with pytest.raises(Exception, match="matching query"):
        result.get(timeout=PATIENCE)
    row = TaskResult.objects.get(task_id=result.id)
    assert row.result == ('{"exc_type": "Order.DoesNotExist", "exc_message": "Order matching query does not exist.", '
                          '"exc_module": "shop.models"}')  # fmt: skip
    assert "DoesNotExist" in row.traceback
    assert (row.task_args, row.task_kwargs) == ("[]", '{"number": "nowhere"}')


def test_workflows_are_counted_there(worker: Worker) -> None:
    result = chord([add.s(1, 1), add.s(2, 2)])(plain.s())
    assert result.get(timeout=PATIENCE) == "[2, 4]"


# --- Transactions -------------------------------------------------------------------------------------


def test_a_result_is_no_part_of_the_transaction_of_its_caller() -> None:
    if IS_SQLITE:
        pytest.skip("it has one writer at a time")
    with transaction.atomic():
        app.backend.save([OUTCOME])
        transaction.set_rollback(True)
    assert app.AsyncResult("a").get() == 3


@pytest.mark.skipif(not IS_SQLITE, reason="it has many writers")
def test_on_sqlite_a_write_in_a_transaction_says_what_to_do_instead_of_waiting_in_vain() -> None:
    with transaction.atomic(), pytest.raises(BackendError, match=r"transaction.on_commit\(workflow.delay\)"):
        app.backend.save([OUTCOME])
    with transaction.atomic():
        assert app.AsyncResult("a").state == "PENDING"


@pytest.mark.skipif(not IS_SQLITE, reason="it has many writers")
def test_on_sqlite_the_lock_of_a_transaction_around_the_call_is_named_as_the_cause() -> None:
    database = DjangoDatabase("default", 0.1)
    with transaction.atomic():
        Order.objects.create(number="locks")
        with ThreadPoolExecutor(1) as thread, pytest.raises(BackendUnavailable, match="is what holds the file"):
            thread.submit(DjangoBackend(database, app.clock).save, [OUTCOME]).result()
    database.close()


# --- The model ----------------------------------------------------------------------------------------


def test_instants_and_values_are_those_of_the_outcome() -> None:
    app.backend.save([OUTCOME])
    row = TaskResult.objects.get()
    assert row.date_done.timestamp() == OUTCOME.done_at
    assert row.as_dict() == {
        "task_id": "a", "task_name": "shop.tasks.add", "task_args": None, "task_kwargs": None, "status": "SUCCESS",
        "result": "3", "date_done": row.date_done, "traceback": None, "worker": "",
        "meta": '{"children": [], "attempt": 1, "runtime": 0.0}',
    }  # fmt: skip


def test_a_later_outcome_replaces_what_was_shown_of_the_one_before() -> None:
    app.backend.save([Outcome(id="b", task="t", state="PROGRESS", value=b"1", worker="first")])
    assert TaskResult.objects.get().status == "PROGRESS"
    app.backend.save([Outcome(id="b", task="t", state="SUCCESS", value=b"2", worker="second")])
    app.backend.save([Outcome(id="b", task="t", state="FAILURE", worker="late")])
    row = TaskResult.objects.get()
    assert (row.status, row.worker, row.result) == ("SUCCESS", "second", "2")


def test_unusual_ids_and_states_are_found_by_what_they_are() -> None:
    app.backend.save([Outcome(id="Order 42", task="tâche\0", state="Waiting for paper", value=b"{}")])
    row = TaskResult.objects.get(task_id="Order 42", status="Waiting for paper")
    assert (row.pk, row.status) == ("Order 42", "Waiting for paper")
    assert TaskResult.objects.filter(task_name__startswith="tâche").count() == 1
    row.delete()
    assert app.AsyncResult("Order 42").state == "PENDING"


def test_nobody_else_writes_results() -> None:
    with pytest.raises(TypeError, match="workers store results"):
        TaskResult(task_id="x").save()


def test_a_result_names_the_schedule_that_has_sent_it() -> None:
    PeriodicTask.objects.all().delete()
    made = PeriodicTask.objects.create(name="minutely", task="shop.tasks.add", args="[1, 2]",
                                       interval=IntervalSchedule(1, "minutes"))  # fmt: skip
    entry = made.entry
    sent = made.definition.what.fill(entry.salt, entry.next_at, 0.0, 0.0, app.backend.codec).messages[0]
    app.backend.save([Outcome(id=sent.id, task=sent.task, state="SUCCESS"), OUTCOME])
    assert TaskResult.objects.get(task_id=sent.id).periodic_task_name == "minutely"
    assert TaskResult.objects.get(task_id="a").periodic_task_name is None


def test_results_are_found_by_the_schedule_that_has_sent_them() -> None:
    PeriodicTask.objects.all().delete()
    ids: dict[str, list[str]] = {}
    for name, args in (("minutely", "[1, 2]"), ("often", "[3, 4]")):
        made = PeriodicTask.objects.create(name=name, task="shop.tasks.add", args=args,
                                           interval=IntervalSchedule(1, "minutes"))  # fmt: skip
        entry, what = made.entry, made.definition.what
        ticks = [entry.next_at, entry.next_at + 60_000]
        ids[name] = [message.id for tick in ticks
                     for message in what.fill(entry.salt, tick, 0.0, 0.0, app.backend.codec).messages]  # fmt: skip
    app.backend.save([Outcome(id=id, task="shop.tasks.add", state="SUCCESS") for id in ids["minutely"] + ids["often"]])
    app.backend.save([OUTCOME])

    def found(**query: object) -> set[str]:
        return set(TaskResult.objects.filter(**query).values_list("task_id", flat=True))

    assert found(periodic_task_name="minutely") == set(ids["minutely"])
    assert found(periodic_task_name__in=["minutely", "often"], status="SUCCESS") == {*ids["minutely"], *ids["often"]}
    assert found(periodic_task_name="minutely", status="FAILURE") == found(periodic_task_name="nobody") == set()
    assert TaskResult.objects.get(periodic_task_name="often", task_id=ids["often"][1]).periodic_task_name == "often"


# --- Where it is --------------------------------------------------------------------------------------


def test_there_is_a_migration_for_the_newest_tables_and_none_is_missing() -> None:
    names = sorted(path.stem for path in Path(migrations[0]).glob("0*.py"))
    modules = [import_module(f"celeriac.contrib.django.db.migrations.{name}") for name in names]
    operations = [operation for module in modules for operation in module.Migration.operations]
    assert [one.version for one in operations if isinstance(one, MakeTables)][-1] == VERSION
    call_command("makemigrations", "celeriac_db", check=True, stdout=StringIO())


def test_tables_are_dropped_and_made_again_by_the_migration(other_archive: Path) -> None:
    database = archive(other_archive)
    call_command("migrate", "celeriac_db", database="archive", verbosity=0)
    call_command("migrate", "celeriac_db", database="archive", verbosity=0)
    assert database.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1
    call_command("migrate", "celeriac_db", "zero", database="archive", verbosity=0)
    with connections["archive"].cursor() as cursor:
        left = connections["archive"].introspection.table_names(cursor)
    assert not [name for name in left if name.startswith("celeriac_")]


def test_without_the_migration_it_says_what_to_call(other_archive: Path) -> None:
    with pytest.raises(BackendError, match=r"call `manage\.py migrate --database=archive`"):
        archive(other_archive).read(lambda connection: None)


def test_it_follows_the_name_of_the_database_which_tests_replace(other_archive: Path) -> None:
    backend = DjangoBackend(archive(), app.clock)
    backend.save([OUTCOME])
    connections["archive"].close()
    connections.settings["archive"]["NAME"] = str(other_archive)
    call_command("migrate", "celeriac_db", database="archive", verbosity=0)
    assert backend.fetch(["a"]) == {}


def test_a_database_in_memory_as_tests_have_it_can_be_used_in_its_process(other_archive: Path) -> None:
    backend = DjangoBackend(archive(Path("file:tests?mode=memory&cache=shared")), app.clock)
    connections["archive"].ensure_connection()
    call_command("migrate", "celeriac_db", database="archive", verbosity=0)
    backend.save([OUTCOME])
    assert backend.fetch(["a"]) == {"a": OUTCOME}
    assert place_of("archive").is_test


def test_a_database_in_memory_that_nobody_else_can_reach_is_refused(other_archive: Path) -> None:
    connections.settings["archive"]["NAME"] = ":memory:"
    with pytest.raises(ImproperlyConfigured, match="in memory, where no other process finds its results"):
        place_of("archive")


def test_the_command_prints_the_tables(start_command: Callable[..., str]) -> None:
    assert "CREATE TABLE celeriac_django_outcomes" in start_command("celeriac", "backend", "schema")
