"""Tests of SQLite's own: foreign files, upgrades, locks, full disks, forks, many processes, many queues."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from celeriac import Celeriac
from celeriac.app.connections import file_url
from celeriac.backends.sqlite import SQLiteBackend
from celeriac.brokers.sqlite import SQLiteBroker, connect, lines
from celeriac.brokers.sqlite.rows import DUE, LINE_UP, seq_of, seqs_of
from celeriac.drivers.sqlite.address import path_of
from celeriac.drivers.sqlite.database import Database, database
from celeriac.drivers.sqlite.schema import APPLICATION_ID, MIGRATIONS
from celeriac.errors import BrokerError, BrokerUnavailable, ForeignDatabase, ImproperlyConfigured, LeaseLost
from celeriac.model.clock import Clock
from celeriac.model.message import COROUTINE, PLAIN, Message, new_id, new_ids
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import MISSED, Action, Settlement
from celeriac.ports.operations import WorkerInfo
from celeriac.states import SUCCESS
from tests.clock import FakeClock
from tests.conformance.broker import BrokerConformance, Ports, leases_end_with_their_file
from tests.patience import PATIENCE, in_time
from tests.test_brokers import sqlite as sqlite_ports

PUBLISH = """
import sys
from celeriac.brokers.sqlite import connect
from celeriac.model.clock import Clock
from celeriac.model.message import Message, new_id
broker = connect("sqlite:///" + sys.argv[1], clock=Clock(), timeout=100.0, result_expires=None)
for _ in range(int(sys.argv[2])):
    broker.publish([Message(id=new_id(), task="t")])
broker.close()
"""


def message(body: bytes = b"") -> Message:
    return Message(id=new_id(), task="t", body=body)


def count(path: Path) -> int:
    connection = sqlite3.connect(path)
    found: int = connection.execute("SELECT count(*) FROM messages").fetchone()[0]
    connection.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "celeriac.db"


@pytest.fixture
def open_broker(path: Path) -> Iterator[Callable[..., SQLiteBroker]]:
    opened = []

    def open_one(timeout: float = 100.0, at: Path = path, **options: object) -> SQLiteBroker:
        opened.append(SQLiteBroker(Database(str(at), timeout=timeout, **options), Clock()))  # type: ignore[arg-type]
        return opened[-1]

    yield open_one
    for broker in opened:
        broker.close()


Open = Callable[..., SQLiteBroker]


# --- Many queues --------------------------------------------------------------------------------------


def named(number: int, **fields: Any) -> Message:
    return Message(id=new_id(), task="t", queue=f"queue-{number}", **fields)


def names(count: int, first: int = 0) -> list[str]:
    return [f"queue-{number}" for number in range(first, first + count)]


class TestBrokerWithManyQueues(BrokerConformance):
    @pytest.fixture
    def ports(self, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ports]:
        monkeypatch.setattr(lines, "FEW_QUEUES", 0)
        monkeypatch.setattr(lines, "MANY_READY", 1)
        with sqlite_ports(tmp_path, clock) as made:
            yield made


@pytest.mark.parametrize("count", [20, 100])
async def test_every_queue_has_its_turn_among_many_that_have_messages(open_broker: Open, count: int) -> None:
    broker, queues = open_broker(), names(count)
    broker.publish([named(number) for _ in range(3) for number in range(count)])
    lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
    for _ in range(3):
        got = [(await lease.receive(queues, {PLAIN: 1}, 0))[0].message.queue for _ in queues]
        assert sorted(got) == sorted(queues)
    assert await lease.receive(queues, {PLAIN: 1}, 0) == []


async def test_many_queues_are_served_by_priority_and_age_within_each(open_broker: Open) -> None:
    broker = open_broker()
    sent = [named(number, priority=priority) for number in range(70) for priority in (1, 9, 5, 9)]
    broker.publish(sent)
    lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
    got = await lease.receive(names(70), {PLAIN: 1000}, 0)
    assert len(got) == len(sent)
    for number in range(70):
        first, second, third, fourth = sent[4 * number : 4 * number + 4]
        mine = [item.message.id for item in got if item.message.queue == f"queue-{number}"]
        assert mine == [second.id, fourth.id, third.id, first.id]


async def test_messages_of_other_workers_queues_and_of_paused_ones_are_passed_over(open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([named(number) for number in range(200)])
    await broker.operations().pause("queue-105")
    lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
    got = await lease.receive(names(10, first=100), {PLAIN: 1000}, 0)
    assert {item.message.queue for item in got} == {*names(10, first=100)} - {"queue-105"}
    assert await lease.receive(names(10, first=100), {PLAIN: 1000}, 0.01) == []


async def test_receiving_takes_as_many_steps_with_many_empty_queues_as_with_few(open_broker: Open) -> None:
    broker = open_broker()
    connection = broker.database.connection()
    for number in range(1000):  # each has a line
        broker.publish([named(number)])
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    async def cost(count: int) -> list[int]:
        nonlocal steps
        lease, found = await broker.lease(WorkerInfo(name="w"), 60.0, 3), []
        for sent in ([], [named(count // 2)]):
            broker.publish(sent)
            steps = 0
            connection.set_progress_handler(step, 1)
            got = await lease.receive(names(count), {PLAIN: 1, COROUTINE: 1}, 0)
            connection.set_progress_handler(None, 1)
            assert len(got) == len(sent)
            found.append(steps)
            await lease.settle([Settlement(delivery=delivery) for delivery in got])
        return found

    lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
    while await lease.receive(names(1000), {PLAIN: 1000}, 0):
        pass
    few = await cost(20)
    assert few == await cost(1000)
    assert all(few)


# --- Foreign files ------------------------------------------------------------------------------------


def test_a_foreign_database_is_refused_and_not_changed(path: Path, open_broker: Open) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ForeignDatabase, match=r"Name another file"):
        open_broker().publish([message()])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_foreign_database_in_wal_mode_is_refused_and_not_changed(path: Path, open_broker: Open) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("PRAGMA application_id = 7")
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.commit()
    before = path.read_bytes()
    with pytest.raises(ForeignDatabase):
        open_broker().publish([message()])
    assert path.read_bytes() == before
    connection.close()


@pytest.mark.parametrize("content", [b"x", b"not a database at all, but long enough for a header" * 10])
def test_a_file_that_is_not_a_database_is_refused_and_not_changed(
    path: Path, open_broker: Open, content: bytes
) -> None:
    path.write_bytes(content)
    with pytest.raises(ForeignDatabase):
        open_broker().publish([message()])
    assert path.read_bytes() == content


def test_an_empty_file_becomes_a_database(path: Path, open_broker: Open) -> None:
    path.touch()
    open_broker().publish([message()])
    assert count(path) == 1


def test_a_foreign_database_that_replaces_a_closed_one_is_refused(path: Path, open_broker: Open) -> None:
    open_broker().publish([message()])
    open_broker().close()
    for file in path.parent.iterdir():
        file.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ForeignDatabase):
        open_broker().publish([message()])
    assert path.read_bytes() == before


def test_the_file_has_the_application_id(path: Path, open_broker: Open) -> None:
    open_broker().publish([message()])
    assert path.read_bytes()[68:72] == APPLICATION_ID.to_bytes(4, "big")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="names no file"):
        path_of(url)


def test_the_path_in_a_url_is_relative_or_absolute() -> None:
    assert path_of("sqlite:///a/b.db") == "a/b.db"
    assert path_of("sqlite:////a/b.db") == "/a/b.db"


def test_percent_encoding_in_a_url_is_decoded() -> None:
    assert path_of("sqlite:///what%3F/100%25/a%20b ü#.db") == "what?/100%/a b ü#.db"
    assert path_of("sqlite:///100%.db") == "100%.db"


@pytest.mark.parametrize("name", ["celeriac.db", "what?.db", "100%.db", "%3F.db", "a b?x=1#ü.db"])
def test_the_url_of_a_path_names_that_path(name: str) -> None:
    assert path_of(file_url(f"/a/{name}")) == f"/a/{name}"


@pytest.mark.parametrize("url", ["sqlite:///a.db?timeout=5", "sqlite:///what?.db", "sqlite:////a.db?"])
def test_options_in_a_url_are_refused_and_the_settings_named(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"`broker_publish_timeout`.*%3F"):
        path_of(url)


def test_the_default_database_of_an_app_may_be_in_a_folder_with_a_question_mark(tmp_path: Path) -> None:
    folder = tmp_path / "what?100%"
    folder.mkdir()
    (folder / "odd.py").write_text("from celeriac import Celeriac\napp = Celeriac('odd', environ={})\n"
                                   "@app.task\ndef add(x, y): ...\nadd.delay(1, 2)\n")  # fmt: skip
    subprocess.run([sys.executable, folder / "odd.py"], check=True, cwd=tmp_path)
    assert count(folder / "celeriac.db") == 1
    assert os.listdir(tmp_path) == [folder.name]


def test_broker_and_backend_of_one_file_share_a_database(path: Path) -> None:
    assert database(str(path)) is database(f"{path.parent}/./{path.name}")


def test_apps_on_one_file_may_have_different_settings(path: Path) -> None:
    url = f"sqlite:///{path}"
    first = Celeriac("first", environ={}, broker_url=url)
    second = Celeriac("second", environ={}, broker_url=url, broker_publish_timeout=0.5, sqlite_synchronous="full")
    brokers = [first.broker, second.broker]
    assert isinstance(brokers[0], SQLiteBroker)
    assert isinstance(brokers[1], SQLiteBroker)
    databases = [brokers[0].database, brokers[1].database]
    assert [found.timeout for found in databases] == [10.0, 0.5]
    synchronous = [found.connection().execute("PRAGMA synchronous").fetchone()[0] for found in databases]
    assert synchronous == [1, 2]
    assert all(app.broker.joins(app.backend) for app in (first, second))


def test_a_waiter_on_a_symbolic_link_is_woken_by_a_writer_on_its_target(tmp_path: Path) -> None:
    path, link = tmp_path / "real.db", tmp_path / "link.db"
    database(str(path)).connection()
    link.symlink_to(path)
    through = database(str(link))
    assert through.watch().path == database(str(path)).watch().path
    seen = through.watch().generation
    database(str(path)).write(lambda connection: connection.execute("DELETE FROM pauses"))
    through.watch().wait(seen, PATIENCE)
    assert through.watch().generation > seen


# --- Files that are deleted or replaced while they are open ---------------------------------------------


def delete_all(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()


def delete_the_file_alone(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


@pytest.mark.parametrize("remove", [delete_all, delete_the_file_alone, rename])
async def test_messages_published_after_the_file_was_deleted_are_in_the_file_that_all_then_use(
    path: Path, open_broker: Open, caplog: pytest.LogCaptureFixture, remove: Callable[[Path], None]
) -> None:
    brokers = [open_broker() for _ in range(3)]
    for broker in brokers:
        broker.publish([message() for _ in range(2)])
    lease = await brokers[0].lease(WorkerInfo(name="w"), 600.0, 3)
    remove(path)
    sent = [message() for _ in range(10)]
    brokers[1].publish(sent[:1])
    brokers[2].publish(sent[1:2])
    await brokers[0].apublish(sent[2:7])
    for one in sent[7:]:
        brokers[1].publish([one])
    subprocess.run([sys.executable, "-c", PUBLISH, str(path), "1"], check=True)
    assert count(path) == 11
    assert caplog.text.count("while it was in use") == 3
    with pytest.raises(LeaseLost):
        await lease.receive(["default"], {PLAIN: 99}, PATIENCE)
    again = await brokers[0].lease(WorkerInfo(name="w"), 600.0, 3)
    received = await again.receive(["default"], {PLAIN: 99}, 0.0)
    assert {one.id for one in sent} < {delivery.message.id for delivery in received}


async def test_a_lease_does_not_outlive_its_file(path: Path, open_broker: Open) -> None:
    lease = await open_broker().lease(WorkerInfo(name="w"), 600.0, 3)
    delete_all(path)
    assert await lease.sweep() == []
    with pytest.raises(LeaseLost):
        await lease.renew()


async def test_leases_in_the_file_that_replaced_the_first_are_not_those_of_workers_that_had_the_first(
    path: Path, open_broker: Open
) -> None:
    await leases_end_with_their_file(open_broker(), lambda: delete_all(path))


async def test_a_waiter_finds_the_result_in_the_file_that_replaced_the_first(path: Path, open_broker: Open) -> None:
    here, there = open_broker(), open_broker()
    here.publish([message()])
    backend = SQLiteBackend(here.database, here.clock)
    waiting = asyncio.create_task(backend.afetch(["x"], wait=PATIENCE))
    while not here.database.watch().busy:
        await asyncio.sleep(0)
    delete_all(path)
    outcome = Outcome(id="x", task="t", state=SUCCESS)
    await SQLiteBackend(there.database, there.clock).store([outcome])
    assert await waiting == {"x": outcome}


async def test_a_listener_receives_broadcasts_from_the_file_that_replaced_the_first(
    path: Path, open_broker: Open
) -> None:
    here, there = open_broker(), open_broker()
    await here.broadcast("c", [b"1", b"2", b"3"])
    heard = await here.listen("c")
    delete_all(path)
    await there.broadcast("c", [b"4"])
    async with asyncio.timeout(PATIENCE):
        assert await anext(heard) is MISSED
        assert await anext(heard) == b"4"


def test_a_foreign_database_that_replaces_an_open_one_is_refused(path: Path, open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([message()])
    delete_all(path)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE customers (name TEXT)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(ForeignDatabase):
            broker.publish([message()])
    assert path.read_bytes() == before
    path.unlink()
    broker.publish([message()])
    assert count(path) == 1


def test_the_error_names_a_folder_that_was_deleted_while_in_use(tmp_path: Path, open_broker: Open) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    broker = open_broker(at=folder / "celeriac.db")
    broker.publish([message()])
    shutil.rmtree(folder)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="folder exists"):
            broker.publish([message()])
    folder.mkdir()
    broker.publish([message()])
    assert count(folder / "celeriac.db") == 1


# --- Versions -----------------------------------------------------------------------------------------


def test_a_database_of_a_newer_version_is_refused(path: Path, open_broker: Open) -> None:
    newer = (*MIGRATIONS, "CREATE TABLE later (x);")
    open_broker(migrations=newer).publish([message()])
    with pytest.raises(BrokerError, match="pip install -U celeriac"):
        open_broker().publish([message()])


def test_an_older_database_is_upgraded_and_keeps_its_messages(path: Path, open_broker: Open) -> None:
    open_broker().publish([message()])
    newer = (*MIGRATIONS, "CREATE TABLE later (x);\nINSERT INTO later VALUES (1);\nCREATE INDEX x ON later (x)")
    open_broker(migrations=newer).publish([message()])
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
    assert connection.execute("SELECT x FROM later").fetchall() == [(1,)]
    connection.close()
    assert count(path) == 2


def test_an_upgrade_that_fails_changes_nothing(path: Path, open_broker: Open) -> None:
    open_broker().publish([message()])
    with pytest.raises(BrokerError):
        open_broker(migrations=(*MIGRATIONS, "CREATE TABLE later (x);\nCREATE NONSENSE;")).publish([message()])
    open_broker().publish([message()])
    assert count(path) == 2


# --- Concurrency --------------------------------------------------------------------------------------


def test_processes_may_create_the_file_at_the_same_time(path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", PUBLISH, str(path), "20"]) for _ in range(4)]
    assert [process.wait(PATIENCE) for process in processes] == [0] * 4
    assert count(path) == 80


def test_many_threads_publish(path: Path, open_broker: Open) -> None:
    broker = open_broker()
    start = threading.Barrier(10)

    def publish() -> None:
        start.wait()
        for _ in range(20):
            broker.publish([message()])

    threads = [threading.Thread(target=publish) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(path) == 200


def test_nothing_is_lost_when_another_process_closes_the_database(path: Path, open_broker: Open) -> None:
    """If this process read the file itself, SQLite's locks would be dropped, and the other would delete the log."""
    broker = open_broker()
    broker.publish([message()])
    for again in (broker, open_broker()):  # another thread, with the same Database and with one of its own
        thread = threading.Thread(target=again.publish, args=([message()],))
        thread.start()
        thread.join()
    subprocess.run([sys.executable, "-c", PUBLISH, str(path), "1"], check=True)
    broker.publish([message()])
    found = subprocess.run(
        [sys.executable, "-c", f"import sqlite3; c = sqlite3.connect({str(path)!r});"
         "print(c.execute('SELECT count(*) FROM messages').fetchone()[0])"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.strip() == "5"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_parent_and_child_of_a_fork_both_publish(path: Path, open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([message()])
    pid = os.fork()
    if pid == 0:
        try:
            broker.publish([message()])
            os._exit(0)
        finally:
            os._exit(1)
    broker.publish([message()])
    assert os.waitpid(pid, 0)[1] == 0
    broker.publish([message()])
    assert count(path) == 4


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="locks can be seen on Linux alone")
def test_a_forked_child_has_its_own_locks(path: Path, open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([message()])
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            broker.publish([message()])
            os.write(write, Path("/proc/locks").read_bytes())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    held = [line.split()[5] for line in os.read(read, 1 << 20).decode().splitlines() if line.split()[4] == str(pid)]
    os.close(read)
    os.close(write)
    assert any(int(file.split(":")[2]) == path.stat().st_ino for file in held)


def test_a_loop_that_was_closed_with_a_waiter_does_not_swallow_events_of_the_next(open_broker: Open) -> None:
    here, there = open_broker(), open_broker()
    watch = here.database.watch()
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(watch.changed(watch.generation, 60.0))
    loop.run_until_complete(asyncio.sleep(0))
    assert watch.busy
    loop.close()
    assert not watch.busy

    async def wait() -> None:
        seen = watch.generation
        waiting = asyncio.create_task(watch.changed(seen, 60.0))
        await asyncio.sleep(0)
        there.publish([message()])
        await waiting
        assert watch.generation > seen

    asyncio.run(wait())
    abandoned.get_coro().close()  # type: ignore[union-attr]
    abandoned._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_a_worker_sees_what_another_process_publishes(path: Path, open_broker: Open) -> None:
    lease = await open_broker().lease(WorkerInfo(name="w"), 600.0, 3)
    process = subprocess.Popen([sys.executable, "-c", PUBLISH, str(path), "1"])
    got = await lease.receive(["default"], {PLAIN: 1}, PATIENCE)
    assert process.wait(PATIENCE) == 0
    assert len(got) == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files can be counted on Linux alone")
def test_a_thread_that_ends_leaves_no_file_open(open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([message()])

    def publish() -> None:
        broker.publish([message()])
        broker.database.watch()

    def run() -> int:
        thread = threading.Thread(target=publish)
        thread.start()
        thread.join()
        return len(os.listdir("/proc/self/fd"))

    first = run()  # SQLite keeps one file to open it again
    assert [run() for _ in range(5)] == [first] * 5


# --- Errors of writing --------------------------------------------------------------------------------


@pytest.fixture
def locked(path: Path, open_broker: Open) -> Iterator[None]:
    """Hold the write lock, like a process with an open transaction."""
    open_broker().publish([message()])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    yield
    holder.close()


@pytest.mark.usefixtures("locked")
def test_publishing_to_a_locked_database_fails_within_the_time_out(open_broker: Open) -> None:
    broker = open_broker(timeout=0.1)
    for _ in range(2):  # at every call
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="locked"):
            broker.publish([message()])
        assert in_time(time.monotonic() - started, 0.5)


@pytest.mark.usefixtures("locked")
async def test_publishing_to_a_locked_database_lets_the_loop_run_and_fails(open_broker: Open) -> None:
    with pytest.raises(BrokerUnavailable, match="locked"):
        await open_broker(timeout=0.1).apublish([message()])


def test_publishing_waits_until_a_lock_is_released(path: Path, open_broker: Open) -> None:
    broker = open_broker(timeout=PATIENCE)
    broker.publish([message()])
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.1, holder.execute, ["ROLLBACK"])
    timer.start()
    broker.publish([message()])
    timer.join()
    holder.close()
    assert count(path) == 2


def test_the_error_names_a_folder_that_does_not_exist(tmp_path: Path, open_broker: Open) -> None:
    with pytest.raises(BrokerUnavailable, match=r"folder exists"):
        open_broker(at=tmp_path / "no" / "such.db").publish([message()])


@pytest.mark.parametrize("known", [True, False])
def test_the_error_names_open_files_when_no_more_may_be_opened(path: Path, open_broker: Open, known: bool) -> None:
    broker = open_broker()
    if known:
        broker.publish([message()])
        broker.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(BrokerUnavailable, match=rf"too many files are open.*/proc/{os.getpid()}/fd") as caught:
            broker.publish([message()])
    finally:
        for file in opened:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert type(caught.value) is BrokerUnavailable
    broker.publish([message()])


def test_a_path_that_is_a_folder_is_refused(tmp_path: Path, open_broker: Open) -> None:
    with pytest.raises(BrokerUnavailable, match=r"cannot be read"):
        open_broker(at=tmp_path).publish([message()])


def test_a_folder_without_write_permission_is_reported() -> None:
    script = """
import os, sys
from celeriac.brokers.sqlite import connect
from celeriac.model.clock import Clock
from celeriac.errors import BrokerUnavailable
from celeriac.model.message import Message
if os.getuid() == 0:  # for whom permissions do not count
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    connect(f"sqlite:///{sys.argv[1]}/celeriac.db", clock=Clock(), timeout=1.0, result_expires=None).publish(
        [Message(id="1", task="t")])
except BrokerUnavailable as error:
    print("refused:", error)
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        found = subprocess.run([sys.executable, "-c", script, folder], check=True, capture_output=True, text=True)
    assert found.stdout.startswith("refused:")
    assert "this user may write to it" in found.stdout


def test_a_full_disk_is_reported_and_stored_messages_stay(path: Path, open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([message()])
    connection = broker.database.connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 10}")
    with pytest.raises(BrokerUnavailable, match="the disk is full"):
        broker.publish([message(b"x" * 100_000) for _ in range(10)])
    with pytest.raises(BrokerUnavailable, match="the disk is full"):
        broker.publish([message(b"x" * 100_000)])
    connection.execute(f"PRAGMA max_page_count = {pages + 10_000}")
    broker.publish([message(b"x" * 100_000)])
    assert count(path) == 2


def test_a_file_size_limit_is_reported_and_nothing_is_half_written(path: Path, open_broker: Open) -> None:
    """With a real limit of the kernel."""
    open_broker().publish([message()])
    script = f"""
import resource, signal
from celeriac.brokers.sqlite import connect
from celeriac.model.clock import Clock
from celeriac.errors import BrokerUnavailable
from celeriac.model.message import Message
broker = connect("sqlite:///{path}", clock=Clock(), timeout=1.0, result_expires=None)
broker.publish([Message(id="1", task="t")])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    broker.publish([Message(id="2", task="t", body=b"x" * 1_000_000)])
except BrokerUnavailable as error:
    print("refused:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
broker.publish([Message(id="2", task="t", body=b"x" * 1_000_000)])
"""
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.startswith("refused:")
    assert count(path) == 3


@pytest.mark.parametrize(("free", "told"), [(0, "the disk is full"), (1 << 30, "disk I/O error")])
def test_a_file_that_cannot_be_opened_on_a_full_disk_is_reported_so(
    path: Path, open_broker: Open, free: int, told: str
) -> None:
    """The first process to open the file needs space for another one. A limit of the kernel refuses that, too."""
    open_broker().publish([message()])
    open_broker().close()
    script = f"""
import resource, shutil, signal
from types import SimpleNamespace
from celeriac.brokers.sqlite import connect
from celeriac.model.clock import Clock
from celeriac.errors import BrokerUnavailable
from celeriac.model.message import Message
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
shutil.disk_usage = lambda path: SimpleNamespace(free={free})
try:
    connect("sqlite:///{path}", clock=Clock(), timeout=1.0, result_expires=None).publish([Message(id="2", task="t")])
except BrokerUnavailable as error:
    print("refused:", error)
"""
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.startswith("refused:")
    assert told in found.stdout


def test_a_damaged_database_is_reported_as_damaged(path: Path, open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([message(b"x" * 5000) for _ in range(50)])
    broker.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(bytes(content))
    with pytest.raises(ForeignDatabase, match="damaged"):
        open_broker().publish([message()])


def test_the_file_is_opened_on_first_use(path: Path) -> None:
    broker = connect(f"sqlite:///{path}", clock=Clock(), timeout=1.0, result_expires=None)
    assert not path.exists()
    broker.publish([message()])
    broker.close()
    assert path.exists()


def test_messages_whose_ids_hold_the_same_key_are_all_stored_and_found(tmp_path: Path) -> None:
    ids = [f"01a203e1-0000-7000-8000-{number:012x}" for number in range(9)]
    broker = connect(f"sqlite:///{tmp_path}/c.db", clock=Clock(), timeout=5.0, result_expires=None)
    for id in ids[:5]:
        broker.publish([Message(id=id, task="t")])
    broker.publish([Message(id=id, task="t") for id in ids])
    found = asyncio.run(broker.operations().find(ids))
    assert {id: message.id for id, (_, message) in found.items()} == {id: id for id in ids}
    assert asyncio.run(broker.operations().purge("default")) == 9


async def test_a_row_with_text_instead_of_bytes_becomes_a_dead_letter(open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([message(), message()])
    broker.database.connection().execute("UPDATE ready SET message = 'text' WHERE seq = (SELECT min(seq) FROM ready)")
    lease = await broker.lease(WorkerInfo(name="w"), 600.0, 3)
    assert len(await lease.receive(["default"], {PLAIN: 5}, 0.0)) == 1
    [letter] = await broker.operations().dead("default", 5)
    assert letter.message.body == b"text"


# --- Fresh messages -----------------------------------------------------------------------------------


async def test_a_message_behind_thousands_of_fresh_messages_of_other_queues_is_received(open_broker: Open) -> None:
    broker = open_broker()
    for number in range(2 * LINE_UP + 5):
        broker.publish([Message(id=new_id(), task="t", queue="other", body=b"%d" % number)])
    urgent = [Message(id=new_id(), task="t", queue=queue, priority=9) for queue in ("other", "mine")]
    late = Message(id=new_id(), task="t", queue="mine")
    for one in (late, *urgent):
        broker.publish([one])
    lease = await broker.lease(WorkerInfo(name="a"), 600.0, 3)
    mine = [*await lease.receive(["mine"], {PLAIN: 1}, 0.0), *await lease.receive(["mine"], {PLAIN: 9}, 5.0)]
    assert [delivery.message.id for delivery in mine] == [urgent[1].id, late.id]
    others = await lease.receive(["other"], {PLAIN: 3 * LINE_UP}, 0.0)
    assert [delivery.message.body for delivery in others] == [b"", *(b"%d" % n for n in range(2 * LINE_UP + 5))]


async def test_many_messages_that_are_due_together_are_moved_by_and_by_and_all_are_received(
    path: Path, clock: FakeClock
) -> None:
    broker = SQLiteBroker(Database(str(path)), clock)
    due_at = clock.now() + 60.0
    sent = [Message(id=id, task="t", due_at=due_at) for id in new_ids(2 * DUE + 5)]
    last = Message(id=new_id(), task="t", queue="mine", due_at=due_at + 1.0)
    broker.publish([*sent, last])
    clock.advance(100.0)
    lease = await broker.lease(WorkerInfo(name="a"), 600.0, 3)
    [first] = await lease.receive(["default"], {PLAIN: 1}, 0.0)
    assert broker.database.read(_tables)["ready"] == DUE - 1
    [mine] = await lease.receive(["mine"], {PLAIN: 1}, PATIENCE)
    others = await lease.receive(["default"], {PLAIN: 3 * DUE}, 0.0)
    assert [delivery.message for delivery in (first, *others, mine)] == [*sent, last]
    await lease.settle([Settlement(delivery=delivery) for delivery in (first, *others, mine)])
    broker.publish([Message(id=id, task="t", due_at=clock.now() + 60.0) for id in new_ids(2 * DUE)])
    clock.advance(100.0)
    assert [(found.ready, found.scheduled) for found in await broker.operations().queues()] == [(2 * DUE, 0)]
    broker.close()


async def test_fresh_messages_are_listed_and_purged(open_broker: Open) -> None:
    broker = open_broker()
    messages = [message() for _ in range(3)]
    for one in messages:
        broker.publish([one])
    look = broker.operations()
    assert broker.database.read(_tables) == {"ready": 1, "fresh": 2}  # the first one also created the line
    assert [one.id for one in await look.peek("default", 9)] == [one.id for one in messages]
    assert [(found.queue, found.ready) for found in await look.queues()] == [("default", 3)]
    assert {state for state, _ in (await look.find([one.id for one in messages])).values()} == {"ready"}
    assert await look.purge("default") == 3
    assert broker.database.read(_tables) == {"ready": 0, "fresh": 0}


async def test_a_fresh_message_is_stored_once_in_whatever_state_it_is(open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([message()])
    fresh = message()

    def publish() -> dict[str, int]:
        broker.publish([fresh])
        broker.publish([message(), fresh, message()])
        return broker.database.read(_tables)

    assert publish() == {"ready": 3, "fresh": 1}
    lease = await broker.lease(WorkerInfo(name="a"), 600.0, 3)
    for _ in range(2):  # first ready, then active
        await lease.receive(["default"], {PLAIN: 1}, 0.0)
        publish()
    found = [one.id for one in await broker.operations().peek("default", 99)]
    received = await lease.receive(["default"], {PLAIN: 99}, 0.0)
    assert len(set(found)) == len(found)
    assert [delivery.message.id for delivery in received] == found


def _tables(connection: sqlite3.Connection) -> dict[str, int]:
    return {
        table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("ready", "fresh")
    }


# --- seq ----------------------------------------------------------------------------------------------


OURS = new_ids(3)
STRANGE = (
    "mine", "", "7" * 36, OURS[0].replace("-", "_"), OURS[0].replace("-7", "-4"), "x" + OURS[0][1:], " " + OURS[0][1:],
    "f" * 8 + OURS[0][8:], "0" * 8 + OURS[0][8:], OURS[0] + "0", OURS[0][:-1], OURS[0][:-1] + "-",
)  # fmt: skip


@pytest.mark.parametrize("ids", [
    OURS, [], [*new_ids(5), *OURS], new_ids(0x4001), *([one] for one in STRANGE),
    *([*OURS, one, *OURS] for one in STRANGE), [OURS[0][:-1], OURS[1] + "0"],
])  # fmt: skip
def test_the_seqs_of_many_ids_are_those_of_each(ids: list[str]) -> None:
    assert seqs_of(ids) == [seq_of(id) for id in ids]


def test_seqs_are_in_the_order_of_ids_and_foreign_ids_have_none() -> None:
    ids = new_ids(1000)
    ages = seqs_of(ids)
    assert ages == sorted(set(ages), key=ages.index)
    assert None not in ages
    assert [age for age in ages if age is not None] == sorted(age for age in ages if age is not None)
    assert seqs_of(STRANGE) == [None] * len(STRANGE)


# --- Permissions --------------------------------------------------------------------------------------


def test_only_the_owner_may_read_and_write_a_new_database_and_the_files_beside_it(
    path: Path, open_broker: Open
) -> None:
    before = os.umask(0)
    try:
        open_broker().publish([Message(id=new_id(), task="t")])
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes) >= {path.name, f"{path.name}-wal", f"{path.name}-bell"}
    assert set(modes.values()) == {0o600}


def test_a_bell_has_the_permissions_that_the_database_was_given(path: Path, open_broker: Open) -> None:
    broker = open_broker()
    broker.publish([Message(id=new_id(), task="t")])
    broker.close()
    path.chmod(0o660)
    Path(f"{path}-bell").unlink()
    open_broker().publish([Message(id=new_id(), task="t")])
    assert stat.S_IMODE(Path(f"{path}-bell").stat().st_mode) == 0o660


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_a_bell_that_is_no_file_of_ours_is_not_written_to(path: Path, open_broker: Open, kind: str) -> None:
    bell, target = Path(f"{path}-bell"), path.parent / "target"
    target.write_bytes(b"precious")
    if kind == "link":
        bell.symlink_to(target)
    elif kind == "fifo":
        os.mkfifo(bell)
    else:
        bell.mkdir()
    broker = open_broker()
    broker.publish([Message(id=new_id(), task="t")])
    assert [counts.ready for counts in broker.complete(broker.operations().queues())] == [1]
    assert target.read_bytes() == b"precious"


async def test_a_second_message_with_the_same_id_holds_up_no_other(path: Path, open_broker: Open) -> None:
    """Celeriac stores none, but whoever writes to the file can."""
    broker = open_broker()
    lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
    twins = []
    for _ in range(2):
        broker.publish([Message(id="x", task="t")])
        twins += await lease.receive(["default"], {PLAIN: 1}, 0)
        with sqlite3.connect(path) as connection:  # it is not found by its id now
            connection.execute("UPDATE active SET name = NULL")
    other = Message(id=new_id(), task="t")
    broker.publish([other])
    twins += await lease.receive(["default"], {PLAIN: 1}, 0)
    due = [replace(item.message, due_at=time.time() + 0.2) for item in twins]
    back = [
        Settlement(delivery=item, action=Action.RETURN, message=message, deliveries=0)
        for item, message in zip(twins, due, strict=True)
    ]
    assert await lease.settle(back) == [True, True, True]
    found: list[str] = []
    while len(found) < 2:
        found += [item.message.id for item in await lease.receive(["default"], {PLAIN: 10}, 5.0)]
    assert sorted(found) == sorted(["x", other.id])
