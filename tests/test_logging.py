"""What a worker's log says, in real workers: each line once, with its task, and no more lines than are of use."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac, get_task_logger
from celeriac.cli.log import NonBlockingHandler
from celeriac.errors import BackendError, BrokerUnavailable, NotRegistered
from celeriac.logs import JSONFormatter
from celeriac.model.message import Message
from celeriac.signals import Signal
from celeriac.tasks.execution import Executor
from celeriac.worker.attempt_log import AttemptLog
from celeriac.worker.outages import Outages
from tests.environment import without_settings
from tests.patience import PATIENCE, eventually, wait_for
from tests.redis_server import running_redis

SHOP = """
import asyncio
import logging
import logging.config
import os
import signal
import sys

from celeriac import Celeriac, get_task_logger, signals

{setup}

app = Celeriac("shop", broker_url={broker!r})
logger = logging.getLogger("shop.tasks")
task_logger = get_task_logger("stock")


@app.task
def note(text):
    logger.info("plain %s", text)
    task_logger.info("stock of %s", text)
    logger.debug("unseen")


@app.task
async def anote(text):
    logger.info("before %s", text)
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(logger.info, "after %s", text)


@app.task(max_retries=0)
def fail(text):
    logger.warning("about to fail %s", text)
    raise ValueError(text)


@app.task(max_retries=0)
async def afail(text):
    await asyncio.sleep(0)
    raise ValueError(text)


@app.task(autoretry_for=(OSError,), default_retry_delay=0.01)
def again(times):
    from celeriac import current_request
    if current_request().retries < times:
        raise ConnectionError("no answer")


@app.task
def hold(path):
    import time
    open(path, "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)


@app.task
def write(size):
    logger.info("x" * size)
"""

BASIC = 'logging.basicConfig(level="INFO", format="APP %(levelname)s %(name)s: %(message)s")'

DJANGO = """
logging.config.dictConfig({{
    "version": 1,
    "disable_existing_loggers": {disable},
    "filters": {{"task": {{"()": "celeriac.logs.TaskFilter"}}}},
    "formatters": {{"own": {{"format": "APP %(levelname)s %(name)s %(task_name)s[%(task_id)s]: %(message)s"}}}},
    "handlers": {{"console": {{"class": "logging.StreamHandler", "formatter": "own", "filters": ["task"]}}}},
    "root": {{"handlers": ["console"], "level": "INFO"}},
}})
"""

ONE_LOGGER = """
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("APP %(levelname)s %(name)s: %(message)s"))
logging.getLogger("shop").addHandler(handler)
"""

RECEIVERS = """
@signals.setup_logging.connect
def set_up(loglevel, **more):
    assert loglevel == logging.INFO
    {django}
"""

AFTER = """
@signals.after_setup_logger.connect
def add(logger, format, **more):
    handler = logging.FileHandler("extra.log")
    handler.setFormatter(logging.Formatter("EXTRA %(message)s"))
    logger.addHandler(handler)


@signals.after_setup_task_logger.connect
def add_to_tasks(logger, **more):
    logger.addHandler(logging.FileHandler("tasks.log"))
"""


FAILS_ONCE = """
@signals.worker_process_init.connect
def fail_once(**more):
    try:
        os.close(os.open("failed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    raise KeyboardInterrupt("not now")
"""


class Shop:
    """A folder with `shop.py`, and a worker that runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "worker.log"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.app: Celeriac

    def open(self, *arguments: str, setup: str = "", broker: str = "", into: Any = None, **settings: Any) -> Shop:
        """Write the module and start a worker; return when it is ready."""
        broker = broker or f"sqlite:///{self.folder}/celeriac.db"
        (self.folder / "shop.py").write_text(SHOP.format(setup=setup, broker=broker))
        self.app = Celeriac("shop", broker_url=broker, environ={})
        self.work("-n", "w1", *arguments, into=into, **settings)
        return self

    def work(self, *arguments: str, into: Any = None, **settings: Any) -> subprocess.Popen[bytes]:
        environment = without_settings() | {f"CELERIAC_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-c", "2", *arguments]
        before = self.text().count(" is ready. ")
        with self.log.open("ab") as log:
            worker = subprocess.Popen(command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                      stderr=into or log)  # fmt: skip
        self.workers.append(worker)
        if into is None:
            self.wait(lambda: worker.poll() is not None or self.text().count(" is ready. ") > before)
            assert worker.poll() is None, self.text()
        return worker

    def run(self, task: str, *args: Any) -> str:
        """Run a task to its end, whatever that is; return its id."""
        result = self.app.send_task(f"shop.{task}", args)
        result.get(timeout=PATIENCE, propagate=False)
        return result.id

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def lines(self, *words: str) -> list[str]:
        """Return the lines that contain all these words."""
        return [line for line in self.text().splitlines() if all(word in line for word in words)]

    def wait(self, condition: Callable[[], Any], what: str = "the condition") -> Any:
        try:
            return wait_for(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()[-5000:]}") from None

    def stop(self) -> None:
        """Stop the workers as a deploy does: everything that they have to say is in the log then."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(PATIENCE) == 0, self.text()

    def end(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
            if worker.stderr is not None:
                worker.stderr.close()
        self.app.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.end()


# --- Each line once, with its task --------------------------------------------------------------------

DISABLING = DJANGO.format(disable=True)
KEEPING = DJANGO.format(disable=False)
OURS = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "


@pytest.mark.parametrize(
    ("arguments", "setup", "begin", "named"),
    [
        ((), "", OURS, True),
        (("--pool", "threads"), "", OURS, True),
        (("--pool", "solo"), "", OURS, True),
        ((), BASIC, "APP ", False),
        ((), KEEPING, "APP ", True),
        ((), DISABLING, "APP ", True),
        (("--pool", "threads"), DISABLING, "APP ", True),
        ((), RECEIVERS.format(django=BASIC), "APP ", False),
    ],
    ids=["none", "none-threads", "none-solo", "basicConfig", "Django", "Django-disabling", "Django-threads",
         "setup_logging"],
)  # fmt: skip
def test_each_line_is_logged_once_whoever_configured_logging(
    shop: Shop, arguments: tuple[str, ...], setup: str, begin: str, named: bool
) -> None:
    shop.open("-l", "info", *arguments, setup=setup)
    (shop.folder / "go").touch()
    plain, coroutine, failed = shop.run("note", "tea"), shop.run("anote", "milk"), shop.run("fail", "cups")
    shop.stop()
    by_task = [
        (plain, "shop.tasks", "plain tea"), (plain, "stock", "stock of tea"), (coroutine, "shop.tasks", "before milk"),
        (coroutine, "shop.tasks", "after milk"), (failed, "shop.tasks", "about to fail cups"),
    ]  # fmt: skip
    for id, logger, message in by_task:
        (line,) = shop.lines(message)
        assert re.match(f"{begin}(INFO|WARNING) {logger}", line), line
        assert (id in line) is named
    for message in (f"shop.note[{plain}] succeeded", f"shop.anote[{coroutine}] succeeded", "w1 is ready and receives",
                    f"shop.fail[{failed}] failed: ValueError: cups", "w1 has stopped"):  # fmt: skip
        (line,) = shop.lines(message)
        assert re.match(f"{begin}(INFO|ERROR) celeriac.worker", line), line
    assert not shop.lines("unseen")


def test_loggers_that_a_receiver_has_disabled_log_all_the_same_if_they_are_of_tasks_or_the_worker(shop: Shop) -> None:
    shop.open("-l", "info", setup=RECEIVERS.format(django=DISABLING.replace("\n", "\n    ")))
    id = shop.run("note", "tea")
    shop.stop()
    assert shop.lines("tea") == [f"APP INFO stock shop.note[{id}]: stock of tea"]
    assert shop.lines("has stopped") == ["APP INFO celeriac.worker -[-]: w1 has stopped"]


def test_coroutines_of_one_child_log_their_own_ids(shop: Shop) -> None:
    shop.open("-l", "info")
    results = {name: shop.app.send_task("shop.anote", [name]) for name in ("first", "second")}
    shop.wait(lambda: all(shop.lines(f"before {name}") for name in results))
    (shop.folder / "go").touch()
    for result in results.values():
        result.get(timeout=PATIENCE)
    for name, result in results.items():
        for message in (f"before {name}", f"after {name}"):
            assert re.fullmatch(rf"{OURS}INFO shop.tasks: shop.anote\[{result.id}\]: {message}", shop.lines(message)[0])


def test_without_a_level_tasks_log_warnings(shop: Shop) -> None:
    shop.open()
    shop.run("note", "tea")
    id = shop.run("fail", "cups")
    shop.stop()
    assert not shop.lines("plain tea")
    assert len(shop.lines("WARNING shop.tasks", f"shop.fail[{id}]", "about to fail cups")) == 1


def test_a_line_that_a_handler_of_the_app_has_shown_is_not_shown_again(shop: Shop) -> None:
    shop.open("-l", "info", setup=ONE_LOGGER)
    shop.run("note", "tea")
    shop.stop()
    assert shop.lines("plain tea") == ["APP INFO shop.tasks: plain tea"]
    assert len(shop.lines("stock of tea")) == 1
    assert len(shop.lines("w1 has stopped")) == 1


def test_the_root_logger_can_be_hijacked(shop: Shop) -> None:
    shop.open("-l", "info", setup=BASIC, worker_hijack_root_logger=1)
    shop.run("note", "tea")
    shop.stop()
    assert not shop.lines("APP ")
    assert len(shop.lines("plain tea")) == len(shop.lines("w1 has stopped")) == 1


def test_formats_are_settings(shop: Shop) -> None:
    shop.open("-l", "info", worker_log_format="W %(message)s", worker_task_log_format="T %(task_id)s %(message)s")
    id = shop.run("note", "tea")
    shop.stop()
    assert f"T {id} plain tea" in shop.lines("tea")
    assert shop.lines("has stopped") == ["W w1 has stopped"]


def test_receivers_can_add_handlers(shop: Shop) -> None:
    shop.open("-l", "info", setup=AFTER)
    shop.run("note", "tea")
    shop.stop()
    assert len(shop.lines("plain tea")) == 1
    assert "EXTRA plain tea\nEXTRA stock of tea\n" in (shop.folder / "extra.log").read_text()
    assert (shop.folder / "tasks.log").read_text() == "stock of tea\n"


def test_a_format_that_cannot_be_filled_in_is_refused() -> None:
    with pytest.raises(Exception, match=r"worker_log_format: a format of the module logging, not '%\(nothing\)s'"):
        Celeriac("shop", environ={}, worker_log_format="%(nothing)s")
    with pytest.raises(Exception, match="worker_task_log_format"):
        Celeriac("shop", environ={}, worker_task_log_format="json")


# --- JSON ---------------------------------------------------------------------------------------------


def test_json_is_one_object_on_each_line_with_task_and_id(shop: Shop) -> None:
    shop.open("-l", "info", "--log-format", "json")
    (shop.folder / "go").touch()
    plain, coroutine, failed = shop.run("note", "tea\n\x1b"), shop.run("anote", "milk"), shop.run("fail", "cups")
    shop.stop()
    found = [json.loads(line) for line in shop.text().splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in found)
    assert {line["worker"] for line in found} == {"w1"}
    by_message = {line["message"]: line for line in found}
    assert len(by_message) == len(found)
    for message, level, task, id in (
        ("plain tea\n\x1b", "INFO", "shop.note", plain), ("stock of tea\n\x1b", "INFO", "shop.note", plain),
        ("before milk", "INFO", "shop.anote", coroutine), ("after milk", "INFO", "shop.anote", coroutine),
        ("about to fail cups", "WARNING", "shop.fail", failed),
        (f"shop.fail[{failed}] failed: ValueError: cups", "ERROR", "shop.fail", failed),
    ):  # fmt: skip
        line = by_message[message]
        assert (line["level"], line["task"], line["id"]) == (level, task, id)
    exception = by_message[f"shop.fail[{failed}] failed: ValueError: cups"]["exception"]
    assert exception.startswith("Traceback (most recent call last):\n")
    assert exception.endswith("ValueError: cups")
    (ready,) = [line for line in found if "is ready. " in line["message"]]
    assert (ready["queues"], ready["processes"]) == ("default", "2 for plain functions; 1 for 100 coroutines at a time")
    assert "task" not in by_message["w1 has stopped"]


def test_json_that_the_apps_own_logging_rules_out_is_told(shop: Shop) -> None:
    shop.open("--log-format", "json", setup=BASIC)
    (line,) = shop.lines("Log lines are not JSON, because the app has configured logging")
    assert line.startswith("APP WARNING celeriac.worker: ")


def test_a_child_that_fails_is_told_in_json_too(shop: Shop) -> None:
    shop.open("--log-format", "json", setup=FAILS_ONCE)
    shop.run("note", "tea")
    shop.stop()
    found = [json.loads(line) for line in shop.text().splitlines()]
    (failed,) = [line for line in found if line["message"] == "A child process has failed and exits"]
    assert (failed["level"], failed["exception"].splitlines()[-1]) == ("CRITICAL", "KeyboardInterrupt: not now")


def test_text_overrides_a_setting_of_json(shop: Shop) -> None:
    shop.open("-l", "info", "--log-format", "text", worker_log_format="json")
    shop.run("note", "tea")
    shop.stop()
    assert len([line for line in shop.lines("w1 has stopped") if re.match(OURS, line)]) == 1


def formatted(**fields: Any) -> Any:
    return json.loads(JSONFormatter().format(logging.makeLogRecord({"msg": "hello", **fields})))


def test_json_has_what_was_passed_as_extra() -> None:
    assert formatted(sku="A-1", sizes=[1, 2], owner=Path("x"))["sizes"] == [1, 2]
    circle: list[Any] = []
    circle.append(circle)
    assert formatted(circle=circle, load=float("nan"))["load"] == "nan"


def test_json_is_bounded_and_has_exceptions() -> None:
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        found = formatted(msg="y" * 100_000, exc_info=sys.exc_info())
    assert len(json.dumps(found)) < 50_000
    assert found["exception"].startswith("Traceback")


# --- Task loggers -------------------------------------------------------------------------------------


def test_a_task_logger_stands_below_celeriac_task() -> None:
    logger = get_task_logger("test_logging_shop.tasks")
    assert logger is logging.getLogger("test_logging_shop.tasks")
    assert logger.parent is logging.getLogger("celeriac.task")
    assert get_task_logger("test_logging_shop.tasks.mail").parent is logger
    for name in ("celeriac", "celeriac.task", "celeriac.worker"):
        with pytest.raises(ValueError, match="one of Celeriac's own loggers"):
            get_task_logger(name)


# --- Outages ------------------------------------------------------------------------------------------


def test_a_redis_that_is_away_is_told_when_it_goes_and_when_it_is_back(shop: Shop, tmp_path: Path) -> None:
    with running_redis(tmp_path, "--appendonly", "yes") as redis:
        shop.open("-l", "debug", broker=redis.url, worker_lease_seconds=60)
        shop.run("note", "tea")
        redis.kill(signal.SIGTERM)
        for duty in ("receive", "sweep expired leases", "advance workflows"):
            shop.wait(lambda duty=duty: len(shop.lines(f"annot {duty}")) > 3, f"attempts to {duty}")
        assert not shop.lines("is back")
        redis.start()
        shop.wait(lambda: shop.lines("is back"), "the end of the outage")
        shop.run("note", "milk")
        shop.stop()
    told = [line for line in shop.lines("celeriac") if re.match(f"{OURS}(WARNING|ERROR)", line)]
    gone, back, stopping = told
    assert re.search("WARNING celeriac.worker: The broker is unavailable, the worker keeps trying: cannot .*: .+", gone)
    assert re.search(r"WARNING celeriac.worker: The broker is back after \d+\.\d s", back)
    assert "Shutting down after SIGTERM" in stopping


def test_an_outage_lasts_until_all_duties_that_it_stopped_work_again(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    outages = Outages(joined=True, clock=lambda: now[0])
    outages.worked("receive")
    outages.failed("receive", BrokerUnavailable("no route"))
    outages.failed("store", BackendError("the same server"))
    outages.failed("receive", BrokerUnavailable("no route"))
    now[0] = 12.0
    outages.worked("receive")
    assert caplog.messages == ["The broker is unavailable, the worker keeps trying: cannot receive: no route"]
    outages.worked("sweep")
    outages.worked("store")
    outages.worked("store")
    assert caplog.messages[1:] == ["The broker is back after 12.0 s"]


def test_the_outages_of_a_broker_and_of_a_separate_backend_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    outages = Outages(joined=False, clock=lambda: 0.0)
    outages.failed("settle", BackendError("full"))
    outages.failed("settle", BrokerUnavailable("down"))
    outages.worked("settle")
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "The result backend is unavailable", "The broker is unavailable", "The result backend is back after 0.0 s",
        "The broker is back after 0.0 s",
    ]  # fmt: skip


# --- Ends of attempts ---------------------------------------------------------------------------------


def test_a_retry_is_told_with_its_exception_and_its_attempt(shop: Shop) -> None:
    shop.open("-l", "info")
    id = shop.run("again", 2)
    shop.stop()
    told = shop.lines(f"shop.again[{id}] will be retried")
    assert [line.partition("will be retried in ")[2] for line in told] == [
        "0.0 s (attempt 2 of 4): ConnectionError: no answer", "0.0 s (attempt 3 of 4): ConnectionError: no answer"
    ]  # fmt: skip


def test_tracebacks_begin_in_the_code_of_the_user(shop: Shop) -> None:
    shop.open()
    for task in ("fail", "afail"):
        id = shop.run(task, "cups")
        said = shop.wait(lambda id=id: shop.text().partition(f"[{id}] failed")[2].count("\n") > 4 and shop.text())
        frame, code, error = said.partition(f"[{id}] failed")[2].splitlines()[2:5]
        assert 'shop.py", line' in frame
        assert (code.strip(), error.strip()) == ("raise ValueError(text)", "ValueError: cups")


def test_the_traceback_of_a_receiver_begins_in_the_receiver(caplog: pytest.LogCaptureFixture) -> None:
    def receiver(**more: Any) -> None:
        raise ValueError("cups")

    signal = Signal("s", "x")
    signal.connect(receiver)
    signal.send(None)
    assert "in receiver" in caplog.text.partition("Traceback")[2].splitlines()[1]


def test_a_traceback_without_code_of_the_user_is_whole(app: Celeriac) -> None:
    failure = Executor(app).run(Message(id="7", task="shop.gone")).failure
    assert failure is not None
    assert "execution.py" in failure.traceback


def test_no_failure_of_a_storm_is_missing_from_the_numbers(shop: Shop) -> None:
    shop.open()
    results = [shop.app.send_task("shop.fail", ["cups"]) for _ in range(60)]
    for result in results:
        result.get(timeout=PATIENCE, propagate=False)
    shop.stop()
    full = len(shop.lines("] failed: ValueError: cups"))
    summed = [int(line.partition("failed with ValueError ")[2].split()[0]) for line in shop.lines("more times within")]
    assert 5 <= full < 60
    assert full + sum(summed) == 60


async def test_a_storm_that_goes_on_is_told_by_its_numbers_alone(
    app: Celeriac, caplog: pytest.LogCaptureFixture
) -> None:
    log = AttemptLog(app)

    def lose(number: int) -> None:
        for _ in range(number):
            log.lost(Message(id="7", task="shop.add"), "killed by SIGKILL")

    def told() -> list[str]:
        found = [message.removeprefix("The process that ran ") for message in caplog.messages]
        caplog.clear()
        return found

    one = "shop.add[7] died: killed by SIGKILL; the task runs again"
    summed = "shop.add lost its process %d more times within 10 s; the last was [7]: killed by SIGKILL"
    lose(12)
    assert told() == [one] * 5
    log.sum_up()
    assert told() == [summed % 7]
    lose(1)
    log.sum_up()
    assert told() == [summed % 1]
    log.sum_up()
    lose(5)
    log.sum_up()
    assert told() == [one] * 5


async def test_the_numbers_of_a_storm_are_told_after_a_while(
    app: Celeriac, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.worker.attempt_log.PERIOD", 0.01)
    log = AttemptLog(app)
    for _ in range(7):
        log.unknown(Message(id="7", task="shop.gone"), NotRegistered("shop.gone"))
    await eventually(lambda: "shop.gone is not registered here and was received 2 more times" in caplog.text)


# --- A log that is not read ---------------------------------------------------------------------------


def unread(pipe: int) -> int:
    """Return how many bytes wait in a pipe."""
    (number,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
    return int(number)


def test_lines_that_tasks_log_wait_for_room_and_none_is_dropped(shop: Shop) -> None:
    shop.open("-l", "info", "-c", "1", into=subprocess.PIPE)
    pipe = shop.workers[0].stderr
    assert pipe is not None
    sent = [shop.app.send_task("shop.write", [50_000]) for _ in range(6)]
    wait_for(lambda: unread(pipe.fileno()) > 55_000, "a full pipe")
    found = b""
    while found.count(b"x" * 19_000) < 6:
        found += pipe.read1(10_000)
    assert [result.get(timeout=PATIENCE) for result in sent] == [None] * 6
    shop.workers[0].send_signal(signal.SIGTERM)
    pipe.read()
    assert shop.workers[0].wait(PATIENCE) == 0


def test_a_note_about_dropped_lines_is_a_line_of_the_log() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(theirs, b"x" * 4096):
            pass
    handler = NonBlockingHandler(theirs)
    handler.setFormatter(JSONFormatter("w1"))
    for message in ("first", "second"):
        handler.emit(logging.makeLogRecord({"msg": message}))
    os.read(ours, 1 << 20)
    handler.emit(logging.makeLogRecord({"msg": "third"}))
    lines = [json.loads(line) for line in os.read(ours, 1 << 20).splitlines()]
    os.close(ours)
    os.close(theirs)
    assert [line["message"] for line in lines] == ["2 log lines were dropped here: stderr was full", "third"]
    assert (lines[0]["level"], lines[0]["worker"]) == ("WARNING", "w1")


# --- Dead workers -------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    """The URL of an empty broker; empty for a file of the shop's own."""
    if request.param == "sqlite":
        return ""
    found = request.getfixturevalue("redis" if request.param == "redis" else "place")
    return str(found.url)


def test_what_a_dead_worker_leaves_behind_is_told(shop: Shop, broker: str) -> None:
    shop.open("-c", "1", broker=broker, worker_lease_seconds=3)
    result = shop.app.send_task("shop.hold", [str(shop.folder / "begun")])
    wait_for((shop.folder / "begun").exists, "the start of the task")
    shop.work("-n", "w2", worker_lease_seconds=3)
    shop.workers[0].kill()
    said = "The lease of the worker w1 has expired" if "amqp" not in broker else "A worker that held messages has died"
    (line,) = shop.wait(lambda: shop.lines(said), "the line about the dead worker")
    assert line.endswith(f": shop.hold[{result.id}]")
    (shop.folder / "go").touch()
    assert result.get(timeout=PATIENCE) is None
