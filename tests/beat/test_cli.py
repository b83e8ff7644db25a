"""`celeriac beat`, `celeriac worker --beat` and `celeriac schedules`: real processes, and what they print."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from celeriac import Celeriac, crontab, every
from celeriac.beat.definition import decode_definition
from celeriac.cli import main
from celeriac.errors import ArgumentsError, ImproperlyConfigured
from celeriac.model.message import new_id
from celeriac.ports.schedules import Change
from celeriac.tasks.shared import shared_task
from celeriac.tasks.task import Task
from celeriac.testing import running_worker
from celeriac.worker.options import WorkerOptions
from celeriac.worker.supervisor import Supervisor
from tests.environment import without_settings
from tests.modules import forget_modules
from tests.patience import PATIENCE, eventually, wait_for
from tests.rabbitmq_server import Place
from tests.redis_server import running_redis

CELERIAC = str(Path(sys.executable).with_name("celeriac"))

SHOP = """
from celeriac import Celeriac, crontab

app = Celeriac("shop", beat_schedule={"often": {"task": "shop.note", "schedule": 0.3, "args": ("often",)}})

@app.task
def note(value: str = "") -> str:
    with open("notes", "a") as file:
        file.write(value + "\\n")
    return value

@app.task(schedule=crontab(minute=30, hour=2, tz="Europe/Berlin"))
def nightly() -> None:
    pass
"""

MISTAKEN = """
@app.on_after_configure.connect
def setup_periodic_tasks(sender, **kwargs):
    sender.add_periodic_task(30, nightly.s(1))
"""

WRONG = """
from celeriac import Celeriac

app = Celeriac("shop", beat_schedule={"often": {"task": "shop.note", "schedule": "every day"}})
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with shop.py in it, in which commands are called."""
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("CELERIAC_APP", raising=False)
    yield tmp_path
    forget_modules(tmp_path)


@pytest.fixture
def app(folder: Path) -> Celeriac:
    """The shop, in this process."""
    found: Celeriac = importlib.import_module("shop").app
    return found


def shop(*arguments: str, **options: Any) -> Result:
    """Call the command for the shop in this process."""
    result = CliRunner().invoke(main, ["-A", "shop", *arguments], prog_name="celeriac", **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def read(*arguments: str) -> Any:
    """Call the command with --json, and return the document."""
    return json.loads(shop("schedules", *arguments, "--json").stdout)


class Running:
    """A command in a process of its own."""

    def __init__(self, path: Path, *arguments: str, **environment: str) -> None:
        self.log = path / f"{new_id()}.log"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen([CELERIAC, "-A", "shop", *arguments], cwd=path, stdout=file, stderr=file,
                                            env={**without_settings(), **environment})  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()

    def says(self, words: str) -> None:
        wait_for(lambda: self.process.poll() is not None or words in self.said(), words)
        assert words in self.said()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def running(path: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    """Run a command while the block lasts."""
    found = Running(path, *arguments, **environment)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.kill()
            found.process.wait()


def notes(path: Path) -> list[str]:
    found = path / "notes"
    return found.read_text().split() if found.exists() else []


# --- celeriac beat ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_scheduler_sends_until_a_signal_stops_it_and_then_ends_with_0(app: Celeriac, folder: Path,
                                                                        number: signal.Signals) -> None:  # fmt: skip
    with running(folder, "beat", "--name", "beat1") as beat:
        beat.says("the scheduler beat1 is ready. Ctrl-C stops it.")
        wait_for(lambda: app.schedules.get("often").sent >= 2)
        assert beat.stop(number) == 0
        assert re.search(r"entries +2 in the broker\n +next +often in|now", beat.said())
        assert "Traceback" not in beat.said()


def test_a_scheduler_waits_for_its_broker_at_the_start_and_later(app: Celeriac, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as server:
        app.conf.broker_url = server.url
        server.kill()
        with running(folder, "beat", CELERIAC_BROKER_URL=server.url) as beat:
            beat.says("Schedules wait for a server")
            assert "is ready" not in beat.said()
            server.start()
            beat.says("is ready")
            wait_for(lambda: app.schedules.get("often").sent >= 1)
            server.kill()
            wait_for(lambda: beat.said().count("Schedules wait for a server") == 2)
            server.start()  # empty: it had no disk
            wait_for(lambda: beat.said().count("The server is back") == 2)
            assert beat.stop() == 0
        app.close()


def test_with_rabbitmq_the_entries_are_in_the_result_backend(app: Celeriac, folder: Path, place: Place) -> None:
    servers = {"broker_url": place.url, "result_backend": f"sqlite:///{folder / 'results.db'}"}
    servers["broker_publish_timeout"] = str(PATIENCE)
    app.conf.update({**servers, "broker_publish_timeout": PATIENCE})
    with running(folder, "beat", **{f"CELERIAC_{name.upper()}": text for name, text in servers.items()}) as beat:
        beat.says("is ready")
        wait_for(lambda: app.schedules.get("often").sent >= 2)
        assert beat.stop() == 0
        assert re.search(r"entries +2 in sqlite:///.*results\.db\n", beat.said())
    app.close()


def test_a_scheduler_that_waits_for_its_broker_can_be_stopped(folder: Path) -> None:
    with running(folder, "beat", CELERIAC_BROKER_URL="redis://127.0.0.1:1/0") as beat:
        beat.says("Schedules wait for a server")
        assert beat.stop() == 0


def test_the_log_of_a_scheduler_can_be_json(folder: Path) -> None:
    with running(folder, "beat", "--log-format", "json", "-l", "info") as beat:
        beat.says("has sent its tick")
        assert beat.stop() == 0
        lines = [json.loads(line) for line in beat.said().splitlines()]
    assert {line["logger"] for line in lines} == {"celeriac.beat"}
    (banner,) = [line for line in lines if "is ready" in line["message"]]
    assert banner["entries"] == "2 in the broker"


@pytest.mark.parametrize("command", [("beat",), ("worker", "--beat")])
def test_a_schedule_that_is_declared_wrongly_ends_the_command_with_2(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "shop.py").write_text(WRONG)
    with running(folder, *command) as process:
        assert process.process.wait(PATIENCE) == 2
        assert "Error: The schedule 'often': cron('every day')" in process.said()


@pytest.mark.parametrize("command", [("beat",), ("worker", "--beat")])
def test_without_a_store_for_schedules_the_command_ends_with_1(folder: Path, command: tuple[str, ...]) -> None:
    servers = {"CELERIAC_BROKER_URL": "amqp://127.0.0.1:1//", "CELERIAC_RESULT_BACKEND": "rpc://"}
    with running(folder, *command, **servers) as process:
        assert process.process.wait(PATIENCE) == 1
        assert "keeps schedules. Set `result_backend`" in process.said()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("-s", "entries keep what they have sent"),
        ("--schedule", "Remove -s"),
        ("-S", "celeriac schedules"),
        ("--pidfile", "any number of schedulers may run"),
        ("--max-interval", "wakes up for each tick"),
    ],
)
def test_options_of_celerys_beat_are_refused_with_the_reason(folder: Path, option: str, words: str) -> None:
    result = shop("beat", option, "x")
    assert (result.exit_code, words in result.stderr) == (2, True), result.output


def test_a_scheduler_alone_on_memory_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_BROKER_URL", "memory://")
    for arguments in (("beat",), ("schedules", "add", "x", "-s", "30s", "-t", "shop.note")):
        result = shop(*arguments)
        assert (result.exit_code, "memory:// lives in one process" in result.stderr) == (2, True)


# --- celeriac worker --beat ---------------------------------------------------------------------------


def test_workers_with_beat_send_and_a_pause_takes_effect(app: Celeriac, folder: Path) -> None:
    app.schedules.add("pulse", every(0.3), app.tasks["shop.note"].s("pulse"))
    with running(folder, "worker", "--beat", "-c", "1") as one, running(folder, "worker", "-B", "-c", "1") as two:
        for worker in (one, two):
            worker.says("beat       sends what is scheduled")
        wait_for(lambda: {"often", "pulse"} <= set(notes(folder)))
        assert shop("schedules", "pause", "often").exit_code == 0
        sent, pulse = app.schedules.get("often").sent, app.schedules.get("pulse").sent
        wait_for(lambda: app.schedules.get("pulse").sent >= pulse + 4)
        assert app.schedules.get("often").sent == sent
        assert shop("schedules", "resume", "often").exit_code == 0
        wait_for(lambda: app.schedules.get("often").sent > sent)
        app.schedules.pause("often")
        app.schedules.pause("pulse")
        expected = {name: app.schedules.get(name).sent for name in ("often", "pulse")}
        wait_for(lambda: all(notes(folder).count(name) >= expected[name] for name in expected))
        assert {name: notes(folder).count(name) for name in expected} == expected
        assert (one.stop(), two.stop()) == (0, 0)


def test_the_setting_worker_beat_does_the_same_and_workers_have_no_scheduler_by_default(
    make_app: Callable[..., Celeriac],
) -> None:
    assert not WorkerOptions.of(make_app()).beat
    assert WorkerOptions.of(make_app(), beat=True).beat
    app = make_app(worker_beat=True)
    ran = threading.Event()

    @app.task(schedule=every(0.1))
    def tick() -> None:
        ran.set()

    with running_worker(app):
        assert ran.wait(PATIENCE)


async def test_a_fault_of_the_scheduler_ends_its_worker(make_app: Callable[..., Celeriac],
                                                        caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    app = make_app()
    supervisor = Supervisor(app, WorkerOptions.of(app, pool="threads", beat=True))
    assert supervisor.scheduler is not None

    async def fail() -> float:
        raise ZeroDivisionError("no such luck")

    supervisor.scheduler.turn = fail  # type: ignore[method-assign]
    with caplog.at_level(logging.CRITICAL):
        assert await supervisor.run() == 1
    assert "One of the worker's duties has failed" in caplog.text
    assert "ZeroDivisionError: no such luck" in caplog.text


async def test_a_worker_stops_sending_when_its_shutdown_begins(make_app: Callable[..., Celeriac]) -> None:
    app = make_app()
    begun, end = threading.Event(), threading.Event()

    @app.task
    def long() -> None:
        begun.set()
        assert end.wait(PATIENCE)

    supervisor = Supervisor(app, WorkerOptions.of(app, pool="threads", beat=True, grace_seconds=PATIENCE))
    running = asyncio.ensure_future(supervisor.run())
    await long.adelay()
    await eventually(lambda: begun.is_set() and _schedulers())
    supervisor.ask_to_stop("a test")
    await eventually(lambda: not _schedulers())
    assert supervisor.pool.active()
    end.set()
    assert await running == 0


def _schedulers() -> list[Any]:
    """Return the schedulers that run in this event loop."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return [name for name in names if name == "Scheduler.run"]


# --- celeriac schedules -------------------------------------------------------------------------------


def test_schedules_are_added_listed_shown_changed_and_removed(app: Celeriac, folder: Path) -> None:
    assert "There are no schedules." in shop("schedules").stdout
    added = shop("schedules", "add", "news", "--schedule", "30 9 * * mon-fri", "--tz", "Europe/Berlin", "--task",
                 "shop.note", "--args", '["all"]', "--overlap", "skip", "--window", "2h", "--jitter", "5")  # fmt: skip
    assert added.stdout.startswith("Added news: at 09:30, Monday to Friday, Europe/Berlin; next in "), added.output
    [listed] = read("list")
    assert listed == read("show", "news")
    assert listed["sends"] == [{"task": "shop.note", "queue": "default", "priority": 5, "args": ["all"], "kwargs": {}}]
    assert listed["policies"] == {"overlap": "skip", "window": 7200.0, "jitter": 5.0}
    assert (listed["state"], listed["timezone"], listed["origin"]) == ("active", "Europe/Berlin", "hand")
    table = shop("schedules", "list").stdout
    assert re.search(r"news +shop\.note\('all'\) +cron\('30 9 \* \* mon-fri', tz='Europe/Berlin'\) +in ", table)
    shown = shop("schedules", "show", "news").stdout
    assert "policies  overlap='skip'" in shown
    assert re.search(r"next +\w{3} \d{4}-\d\d-\d\d 09:30:00 \+0[12]:00 CES?T, in ", shown)

    changed = read("change", "news", "-s", "90m", "--missed", "all")
    assert (changed["schedule"], changed["words"]) == ("every(minutes=90)", "every 90 minutes")
    assert read("show", "news")["policies"] == {**listed["policies"], "missed": "all"}
    assert read("show", "news")["sends"] == listed["sends"]

    assert shop("schedules", "remove", "news", input="n\n").exit_code == 1
    assert len(read("list")) == 1
    assert read("remove", "news", "--yes") == {"removed": ["news"]}
    assert read("list") == []


def test_each_kind_of_schedule_is_read(app: Celeriac, folder: Path) -> None:
    for written, schedule in (
        ("30s", "every(30)"), ("5m", "every(minutes=5)"), ("2h", "every(hours=2)"), ("1d", "every(days=1)"),
        ("0.5s", "every(0.5)"), ("@daily", "cron('@daily', tz='UTC')"), ("5 * * * *", "cron('5 * * * *', tz='UTC')"),
        ("2099-01-31T12:00+01:00", "at('2099-01-31T11:00:00+00:00')"),
    ):  # fmt: skip
        assert read("add", written, "-s", written, "-t", "shop.nightly")["schedule"] == schedule


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("-s", "30", "-t", "shop.note"), 2, "30 lacks a unit: 30s, 30m"),
        (("-s", "2099-01-31T12:00", "-t", "shop.note"), 2, "must be an aware datetime"),
        (("-s", "0 0 30 2 *", "-t", "shop.note"), 2, "it never comes"),
        (("-s", "@dayly", "-t", "shop.note"), 2, "Did you mean '@daily'"),
        (("-s", "@daily", "--tz", "Europe/Berln", "-t", "shop.note"), 2, "Did you mean 'Europe/Berlin'"),
        (("-s", "30s", "--tz", "Europe/Berlin", "-t", "shop.note"), 2, "--tz is for cron expressions"),
        (("-s", "2099-01-31T12:00Z", "--ends", "2100-01-01T00:00Z", "-t", "shop.note"), 2, "--ends makes no sense"),
        (("-s", "30s"), 2, "Give --task"),
        (("-t", "shop.note"), 2, "Give --schedule"),
        (("-s", "30s", "-t", "note"), 1, "Did you mean 'shop.note'?"),
        (("-s", "30s", "-t", "shop.nightly", "--args", "[1]"), 1, "These arguments do not fit shop.nightly()"),
        (("-s", "30s", "-t", "shop.note", "--args", "1"), 2, "must be JSON"),
        (("-s", "30s", "-t", "shop.note", "--window", "soon"), 2, "must be seconds, or a number with a unit"),
        (("-s", "30s", "-t", "shop.note", "--overlap", "never"), 2, "'allow', 'skip'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_where_it_is_added(app: Celeriac, folder: Path, arguments: tuple[str, ...],
                                                     code: int, words: str) -> None:  # fmt: skip
    result = shop("schedules", "add", "x", *arguments)
    assert (result.exit_code, words in result.stderr) == (code, True), result.output
    assert read("list") == []


def test_a_task_that_only_others_have_is_sent_if_it_is_named_as_such(app: Celeriac, folder: Path) -> None:
    assert shop("schedules", "add", "x", "-s", "1h", "-t", "bank.book", "--unregistered").exit_code == 0
    assert read("show", "x")["task"] == "bank.book"


def test_a_wrong_name_is_answered_with_the_nearest_and_nothing_is_done(app: Celeriac, folder: Path) -> None:
    app.schedules.add("news", every(3600), app.tasks["shop.note"].s())
    times = ("--from", "2026-01-01T00:00Z", "--to", "2026-01-02T00:00Z")
    for arguments in (("show", "nws"), ("next", "nws"), ("run", "nws"), ("pause", "news", "nws"), ("resume", "nws"),
                      ("remove", "news", "nws", "-y"), ("change", "nws", "--jitter", "1"),
                      ("backfill", "nws", *times)):  # fmt: skip
        result = shop("schedules", *arguments)
        assert (result.exit_code, "Did you mean 'news'?" in result.stderr) == (2, True), result.output
    assert not app.schedules.get("news").paused
    assert "news" in shop("schedules", "add", "news", "-s", "1h", "-t", "shop.note").stderr
    assert "Nothing is given" in shop("schedules", "change", "news").stderr
    assert "--args needs --task" in shop("schedules", "change", "news", "--args", "[1]").stderr


def test_next_tells_the_times_in_the_zone_with_both_changes_of_the_clocks(app: Celeriac, folder: Path) -> None:
    for name, starts in (("spring", "2090-03-25T00:00Z"), ("autumn", "2090-10-28T00:00Z")):
        assert shop("schedules", "add", name, "-s", "30 2 * * *", "--tz", "Europe/Berlin", "--starts", starts, "-t",
                    "shop.nightly", "--times", "3").exit_code == 0  # fmt: skip
    for name, first, days in (
        ("spring", "spring: at 02:30 every day, Europe/Berlin, from 2090-03-25T01:00:00+01:00", [
            "Sat 2090-03-25 02:30:00 +01:00 CET",
            "Sun 2090-03-26 03:00:00 +02:00 CEST, the clocks have changed",
            "Mon 2090-03-27 02:30:00 +02:00 CEST",
        ]),
        ("autumn", "autumn: at 02:30 every day, Europe/Berlin, from 2090-10-28T02:00:00+02:00", [
            "Sat 2090-10-28 02:30:00 +02:00 CEST",
            "Sun 2090-10-29 02:30:00 +02:00 CEST",
            "Mon 2090-10-30 02:30:00 +01:00 CET, the clocks have changed",
        ]),
    ):  # fmt: skip
        title, _, *lines = [" ".join(line.split()) for line in shop("schedules", "next", name).stdout.splitlines()]
        assert title == first
        assert [re.sub(r"^\d+ d \d+ h ", "", line) for line in lines][1:] == days[1:]
        assert re.fullmatch(rf"\d+ d \d+ h {re.escape(days[0])}(, the clocks have changed)?", lines[0])  # since now
    found = read("next", "spring")
    assert found["next"] == ["2090-03-25T02:30:00+01:00", "2090-03-26T03:00:00+02:00", "2090-03-27T02:30:00+02:00"]
    assert (found["timezone"], found["state"]) == ("Europe/Berlin", "active")


def test_next_of_a_paused_schedule_and_of_one_that_is_over(app: Celeriac, folder: Path) -> None:
    app.schedules.add("x", every(3600), app.tasks["shop.note"].s())
    app.schedules.pause("x")
    result = shop("schedules", "next", "x", "-n", "2")
    assert "It is paused: nothing is sent before celeriac -A shop schedules resume" in result.stderr
    assert len(result.stdout.splitlines()) == 4
    assert shop("schedules", "add", "past", "-s", "2020-01-31T12:00Z", "-t", "shop.note").stdout.endswith("; over.\n")
    assert "It is over" in shop("schedules", "next", "past").stdout
    assert [info["state"] for info in read("list")] == ["over", "paused"]


def test_a_schedule_is_run_by_hand_and_backfilled(app: Celeriac, folder: Path) -> None:
    app.schedules.add("x", "0 * * * *", app.tasks["shop.note"].s("x"))
    with running_worker(app):
        id = shop("schedules", "run", "x").stdout.strip()
        assert app.AsyncResult(id).get(timeout=PATIENCE) == "x"
        assert app.AsyncResult(read("run", "x")["id"]).get(timeout=PATIENCE) == "x"
        times = ("--from", "2026-01-01T00:00Z", "--to", "2026-01-01T03:00+00:00")
        assert shop("schedules", "backfill", "x", *times).stdout == "Sent 3 ticks of x.\n"
        wait_for(lambda: len(notes(folder)) == 5)
        assert read("backfill", "x", *times) == {"name": "x", "sent": 0}
    result = shop("schedules", "backfill", "x", "--from", "2020-01-01T00:00Z", "--to", "2026-01-01T00:00Z")
    assert (result.exit_code, "10,000 are the most at a time" in result.stderr) == (1, True), result.output
    assert shop("schedules", "backfill", "x", "--from", times[3], "--to", times[1]).exit_code == 2
    assert shop("schedules", "backfill", "x", "--from", "2026-01-01", "--to", times[1]).exit_code == 2


def test_a_declared_schedule_that_is_removed_comes_back_and_the_command_says_so(app: Celeriac, folder: Path) -> None:
    asyncio.run(app.scheduler().turn())
    result = shop("schedules", "remove", "often", "--yes")
    assert "The app's code declares often: the next scheduler that starts adds it again" in result.stderr


def test_a_list_without_a_scheduler_says_so(app: Celeriac, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app.schedules.add("x", every(1), app.tasks["shop.note"].s())
    monkeypatch.setattr(app.clock, "now", lambda now=app.clock.now: now() + 60)
    result = shop("schedules")
    assert "no scheduler runs" in result.stderr
    assert "To start one: celeriac -A shop beat" in result.stderr
    assert re.search(r"every\(1\) +\S+ (s|min \d+ s) late ", result.stdout)
    assert "no scheduler runs" in shop("schedules", "show", "x").stderr


def test_a_long_list_is_shown_page_by_page(app: Celeriac, folder: Path) -> None:
    for name in ("a", "b", "c"):
        app.schedules.add(name, every(3600), app.tasks["shop.note"].s())
    result = shop("schedules", "list", "--limit", "2")
    assert "schedules list --after 'b'" in result.stderr
    assert [info["name"] for info in read("list", "--after", "b")] == ["c"]


async def test_schedules_that_cannot_be_sent_are_shown_with_the_reason(app: Celeriac, folder: Path) -> None:
    schedules = app.schedules
    for name in ("damaged", "stuck"):
        await schedules.aadd(name, every(3600), app.tasks["shop.note"].s())
    found = await schedules.store.get(["damaged", "stuck"])
    await schedules.store.change([
        Change(before=found["damaged"], after=replace(found["damaged"], definition=msgspec.Raw(b"\xa3bad"))),
        Change(before=found["stuck"], after=replace(found["stuck"], next_at=None)),  # as a scheduler leaves it
    ])  # fmt: skip
    damaged, stuck = read("list")
    assert (damaged["state"], "not the definition of a schedule" in damaged["problem"]) == ("problem", True)
    assert (stuck["state"], "it could not be sent" in stuck["problem"]) == ("problem", True)
    for command in ("next", "run"):
        result = shop("schedules", command, "damaged")
        assert (result.exit_code, "The schedule 'damaged' cannot be read" in result.stderr) == (2, True)
    assert shop("schedules", "show", "damaged").exit_code == 0
    await schedules.apause("stuck")
    await schedules.aresume("stuck")
    assert (await schedules.aget("stuck")).state == "active"
    assert read("remove", "damaged", "-y") == {"removed": ["damaged"]}


# --- Declared with a task -----------------------------------------------------------------------------


def test_the_option_schedule_of_a_task_declares_an_entry_of_its_name(make_app: Callable[..., Celeriac]) -> None:
    app = make_app("shop", timezone="Europe/Berlin")

    class Hourly(Task[Any, Any]):
        schedule = every(hours=1)

    @app.task(schedule=crontab(minute=0, hour=3))
    def report(which: str = "all") -> None: ...

    @app.task(base=Hourly)
    def clean() -> None: ...

    @shared_task(name="shared.poll", schedule=30)
    def poll() -> None: ...

    found = {name: decode_definition(raw) for name, raw in app.declared.definitions()}
    assert {name: repr(definition.when) for name, definition in found.items()} == {
        report.name: "crontab(minute=0, hour=3, tz='Europe/Berlin')",
        clean.name: "every(hours=1)",
        "shared.poll": "every(30)",
    }
    assert [definition.what.task for definition in found.values()] == list(found)
    assert "schedule" not in report.options


def test_a_task_that_cannot_be_sent_by_its_schedule_is_refused(make_app: Callable[..., Celeriac]) -> None:
    app = make_app("shop")
    with pytest.raises(ArgumentsError, match="'to' is missing"):

        @app.task(schedule=30)
        def send(to: str) -> None: ...

    with pytest.raises(ImproperlyConfigured, match="five fields"):

        @app.task(schedule="daily")
        def report() -> None: ...


def test_a_mistake_in_a_receiver_of_on_after_configure_ends_the_command(folder: Path) -> None:
    with (folder / "shop.py").open("a") as file:
        file.write(MISTAKEN)
    result = shop("schedules")
    assert result.exit_code == 2
    assert "a receiver of on_after_configure fails: celeriac.errors.ArgumentsError: These arguments" in result.stderr
    assert "in setup_periodic_tasks: sender.add_periodic_task(30, nightly.s(1))" in result.stderr


async def test_app_beat_imports_the_modules_of_tasks_so_that_their_schedules_are_kept(
    make_app: Callable[..., Celeriac],
) -> None:
    app = make_app("shop")

    @app.task(name="shop.note")
    def note() -> None: ...

    @app.on_after_configure.connect
    def declare(sender: Any, **more: Any) -> None:
        sender.add_periodic_task(3600, note.s(), name="hourly")

    await app.schedules.aadd("hand", every(3600), note.s())
    beating = asyncio.ensure_future(app.beat())
    try:
        async with asyncio.timeout(PATIENCE):
            while "hourly" not in [info.name for info in await app.schedules.alist()]:
                await asyncio.sleep(0.01)
    finally:
        beating.cancel()
        await asyncio.wait([beating])


async def test_a_scheduler_that_is_stopped_ends_after_its_turn(make_app: Callable[..., Celeriac]) -> None:
    scheduler = make_app().scheduler()
    running = asyncio.ensure_future(scheduler.run())
    async with asyncio.timeout(PATIENCE):
        await scheduler.started.wait()
        scheduler.stop()
        await running
