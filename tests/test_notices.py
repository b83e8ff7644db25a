"""Workers tell callers of ends where the result backend cannot: across processes, with outcomes in a folder.

The callers here poll once an hour, so that what they get, they were told of.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from celeriac import Celeriac, states
from celeriac.app.connections import open_broker
from celeriac.app.notices import NoticeListener
from celeriac.app.notifier import Notifier
from celeriac.backends import bases
from celeriac.brokers.memory import MemoryBroker
from celeriac.config.settings import Settings
from celeriac.drivers.memory import Store
from celeriac.errors import AccessRefused, BrokerUnavailable
from celeriac.model.clock import Clock
from celeriac.model.codec import Codec
from celeriac.model.keys import new_key, parse_key, write_caller_key
from celeriac.model.message import new_id
from celeriac.model.notices import MOST_IDS, encode_notice, own_channel, read_notice
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Broker
from tests.environment import without_settings
from tests.key_value import SyncDictBackend
from tests.patience import FOR_EVER, PATIENCE, eventually, wait_for
from tests.rabbitmq_server import Place
from tests.redis_server import RedisServer, running_redis

EXAMPLE = Path(__file__).parent.parent / "examples" / "adapter" / "celeriac_folder.py"

APP = """
import pathlib, time
from celeriac import Celeriac

app = Celeriac("shop")

@app.task
def add(x, y):
    return x + y

@app.task
def fail():
    raise ValueError("no")

@app.task
def wait_for(path):
    while not pathlib.Path(path).exists():
        time.sleep(0.01)
    return path

@app.task
def total(numbers):
    return sum(numbers)
"""

CALLER = """
import asyncio, os, pathlib, sys, threading, time
from celeriac import chord, group
from celeriac.backends import bases
from shop import add, app, fail, total, wait_for

bases.FIRST_PAUSE = bases.LONGEST_PAUSE = 3600.0
PATIENCE = 100.0

def waiting(number=1):
    "Wait until so many callers wait, after they have looked."
    deadline = time.monotonic() + PATIENCE
    while len(app.backend._polls) < number or not all(poll._slept for poll in app.backend._polls):
        assert time.monotonic() < deadline
        time.sleep(0.01)

def listening():
    "Wait until this process is told, by waiting for the first task."
    assert add.delay(2, 2).get(timeout=PATIENCE) == 4
    if not app.backend.notices.listening:
        held = wait_for.delay("held")
        thread = threading.Thread(target=held.get)
        thread.start()
        waiting()
        deadline = time.monotonic() + PATIENCE
        while not app.backend.notices.listening:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        pathlib.Path("held").touch()
        thread.join(PATIENCE)
        assert not thread.is_alive()

def end_when_waited_for(path, number=1):
    def end():
        waiting(number)
        pathlib.Path(path).touch()
    threading.Thread(target=end).start()
"""

ENDS = """
listening()

result = wait_for.delay("one")
end_when_waited_for("one")
assert result.get(timeout=PATIENCE) == "one"

async def wait_in_a_loop():
    results = [await wait_for.adelay("two") for _ in range(2)]
    end_when_waited_for("two", 2)
    return await asyncio.gather(*(result.aget(timeout=PATIENCE) for result in results))
assert asyncio.run(wait_in_a_loop()) == ["two", "two"]

first = wait_for.delay("three")
many = group(add.s(number, number) for number in range(1000)).delay()
end_when_waited_for("three")
assert many.get(timeout=PATIENCE) == [2 * number for number in range(1000)]
assert first.get(timeout=PATIENCE) == "three"

try:
    (fail.s() | add.si(1, 1) | add.s(2)).delay().get(timeout=PATIENCE)  # the last is ended by the one before it
except ValueError:
    pass
else:
    raise AssertionError
assert chord([add.s(number, number) for number in range(5)], total.s()).delay().get(timeout=PATIENCE) == 20
print("all is well")
"""

FORKS = """
listening()
child = os.fork()
if child == 0:
    try:
        result = wait_for.delay("in the child")
        end_when_waited_for("in the child")
        assert result.get(timeout=PATIENCE) == "in the child"
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
result = wait_for.delay("in the parent")
end_when_waited_for("in the parent")
assert result.get(timeout=PATIENCE) == "in the parent"
assert os.waitpid(child, 0)[1] == 0
print("all is well")
"""

WAITS = """
result = app.AsyncResult("nobody's")
thread = threading.Thread(target=lambda: print(result.get(timeout=PATIENCE), flush=True))
thread.start()
waiting()
while not (app.backend.notices.listening and all(poll._slept > 3600.0 for poll in app.backend._polls)):
    time.sleep(0.01)  # it looks again when it listens
pathlib.Path("waits").touch()
thread.join()
"""

STORES = """
from celeriac.model.outcome import Outcome
asyncio.run(app.backend.store([Outcome(id="nobody's", task="t", state="SUCCESS", value=b"7")]))
"""


PURGED = """
import subprocess
from celeriac import TaskRevoked
listening()
app.conf.task_create_missing_queues = True
result = add.apply_async((1, 1), queue="nowhere")
ends = []
def wait():
    try:
        result.get(timeout=PATIENCE)
    except TaskRevoked as error:
        ends.append(str(error))
thread = threading.Thread(target=wait)
thread.start()
waiting()
subprocess.run([sys.executable, "-m", "celeriac", "-A", "shop", "purge", "nowhere", "--yes"], check=True,
               stdout=subprocess.DEVNULL)
thread.join(PATIENCE)
assert "was purged" in ends[0], ends
print("all is well")
"""


class Shop:
    """A folder with an app, the backend `folder://`, and workers."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        self.folder = folder
        site = folder / "site"
        info = site / "celeriac_folder-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "results").mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: celeriac-folder\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[celeriac.backends]\nfolder = celeriac_folder\n")
        (site / "celeriac_folder.py").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
        (folder / "shop.py").write_text(APP)
        self.environment = without_settings() | {
            "PYTHONPATH": str(site), "CELERIAC_BROKER_URL": broker_url,
            "CELERIAC_BROKER_PUBLISH_TIMEOUT": str(PATIENCE),
            "CELERIAC_RESULT_BACKEND": f"folder://{folder / 'results'}",
        }  # fmt: skip

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Run a worker. It stops without an error."""
        command = [sys.executable, "-m", "celeriac", "-A", "shop", "worker", "-c", "2", "--grace", "5"]
        with (self.folder / "log").open("w") as log:
            worker = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                                      stdout=log, stderr=log)  # fmt: skip
        try:
            yield
            worker.terminate()
            assert worker.wait(PATIENCE) == 0, self.log()
        finally:
            worker.kill()
            worker.wait()

    def caller(self, script: str) -> subprocess.Popen[str]:
        """Start a process that calls tasks."""
        return subprocess.Popen([sys.executable, "-c", CALLER + script], cwd=self.folder, env=self.environment,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip

    def call(self, script: str) -> str:
        """Run a process that calls tasks; return what it prints."""
        caller = self.caller(script)
        try:
            return caller.communicate(timeout=PATIENCE)[0]
        finally:
            caller.kill()
            caller.communicate()

    def log(self) -> str:
        """Return the end of what the worker has logged."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]


@pytest.fixture(params=["sqlite", "redis", "rabbitmq"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'celeriac.db'}"
    elif request.param == "redis":
        url = request.getfixturevalue("redis").url
    else:
        url = request.getfixturevalue("place").url
    return Shop(tmp_path, url)


def test_callers_are_told_of_ends_on_every_broker(shop: Shop) -> None:
    with shop.worker():
        told = shop.call(ENDS)
        assert told == "all is well\n", shop.log()


def test_the_child_of_a_fork_is_told_and_so_is_its_parent(shop: Shop) -> None:
    with shop.worker():
        told = shop.call(FORKS)
        assert told == "all is well\n", shop.log()


def test_the_callers_of_purged_tasks_are_told(shop: Shop) -> None:
    with shop.worker():
        told = shop.call(PURGED)
        assert told == "all is well\n", shop.log()


def test_a_caller_looks_when_its_connection_is_back(place: Place, tmp_path: Path) -> None:
    shop = Shop(tmp_path, place.url)
    with waiting_caller(shop) as caller:
        assert shop.call(STORES) == ""
        place.rabbit.cut_connections()
        assert caller.communicate(timeout=PATIENCE)[0].endswith("7\n")


def test_a_caller_looks_when_the_broker_is_back(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with running_redis(tmp_path / "server") as server:
        shop = Shop(tmp_path, server.url)
        with waiting_caller(shop) as caller:
            server.kill()
            assert shop.call(STORES) == ""
            server.start()
            assert caller.communicate(timeout=PATIENCE)[0].endswith("7\n")


@contextmanager
def waiting_caller(shop: Shop) -> Iterator[subprocess.Popen[str]]:
    """Start a process that waits for a task, and listens."""
    caller = shop.caller(WAITS)
    try:
        wait_for((shop.folder / "waits").exists, "a caller that waits")
        yield caller
    finally:
        caller.kill()
        caller.communicate()


# --- Callers ------------------------------------------------------------------------------------------


class Counting(SyncDictBackend):
    """Counts the looks."""

    looks = 0

    def look(self, ids: Sequence[str], final: bool) -> dict[str, Outcome]:
        self.looks += 1
        return super().look(ids, final)


class Caller:
    """A caller that waits for a task, and the listener of its process."""

    def __init__(self, broker: Broker, backend: Counting) -> None:
        self.broker = broker
        self.backend = backend
        self.id = new_id()
        self.found: dict[str, Outcome] = {}
        self.listener = NoticeListener(lambda: broker, backend)
        backend.notices = self.listener
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()
        wait_for(lambda: backend.looks == 2, "looks at first, and when it listens")

    def _wait(self) -> None:
        self.found = self.backend.fetch([self.id], wait=FOR_EVER)

    def send(self, *payloads: bytes) -> None:
        """Send payloads on its channel."""
        self.broker.complete(self.broker.broadcast(own_channel(), payloads))

    def end(self) -> None:
        """Store an outcome, as another process does."""
        self.backend.kept.put([Outcome(id=self.id, task="t", state=states.SUCCESS)], time.time())

    def close(self) -> None:
        """Let the caller end, if it still waits."""
        self.end()
        self.backend.wake(None)
        self._thread.join(PATIENCE)
        self.listener.close()


@pytest.fixture
def hourly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find nothing by polling."""
    monkeypatch.setattr(bases, "FIRST_PAUSE", 3600.0)
    monkeypatch.setattr(bases, "LONGEST_PAUSE", 3600.0)


@contextmanager
def waiting(codec: Codec | None = None) -> Iterator[Caller]:
    broker = MemoryBroker(Store(), Clock())
    if codec is not None:
        broker.codec = codec
    caller = Caller(broker, Counting(Clock()))
    try:
        yield caller
    finally:
        caller.close()


GARBAGE = (b"", b"junk", b"\xc1", b"\xff" * 100, b"null", msgspec.msgpack.encode({"x": 1}), b"\x91" * 5000,
           msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode([""]), msgspec.msgpack.encode(["x" * 2000]),
           msgspec.msgpack.encode(["x" * 1000] * 3000))  # fmt: skip


def test_payloads_that_are_no_notices_do_no_harm(hourly: None, caplog: pytest.LogCaptureFixture) -> None:
    with waiting() as caller:
        caller.send(*GARBAGE)
        caller.end()
        caller.send(encode_notice([new_id(), caller.id]))
        wait_for(lambda: caller.found, "the outcome")
        assert caller.backend.looks == 3
    assert "Notices that cannot be read are ignored" in caplog.text


def test_a_notice_that_names_no_tasks_wakes_every_caller(hourly: None) -> None:
    with waiting() as caller:
        caller.end()
        caller.send(encode_notice([]))
        wait_for(lambda: caller.found, "the outcome")


def test_a_notice_that_is_not_signed_for_this_channel_is_ignored(
    hourly: None, caplog: pytest.LogCaptureFixture
) -> None:
    key = parse_key(new_key())
    with waiting(Codec([parse_key(write_caller_key(key))])) as caller:
        workers, enemies = Codec([key]), Codec([parse_key(new_key())])
        notice, channel = encode_notice([caller.id]), own_channel()
        caller.send(notice, enemies.seal("notice", notice, channel), workers.seal("notice", notice, "ended.other"),
                    workers.seal("outcome", notice, channel))  # fmt: skip
        caller.end()
        caller.send(workers.seal("notice", notice, channel))
        wait_for(lambda: caller.found, "the outcome")
        assert caller.backend.looks == 3
    assert "it is not signed" in caplog.text


def test_a_caller_without_the_right_to_listen_polls_and_says_so_once(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.ask("ACL", "SETUSER", "shy", "on", ">secret", "resetchannels", "~*", "+@all")
    broker = open_broker(redis.url.replace("://", "://shy:secret@"), Settings(), Clock())
    backend = Counting(Clock())
    backend.notices = listener = NoticeListener(lambda: broker, backend)
    ended = Outcome(id=new_id(), task="t", state=states.SUCCESS)
    waiting = threading.Thread(target=backend.fetch, args=([ended.id], FOR_EVER))
    waiting.start()
    wait_for(lambda: "is not told" in caplog.text, "a warning")
    backend.kept.put([ended], time.time())
    waiting.join(PATIENCE)
    assert not waiting.is_alive()
    assert backend.fetch([new_id()], wait=0.1) == {}
    assert (caplog.text.count("is not told"), listener.listening) == (1, False)
    listener.close()
    broker.close()
    redis.ask("ACL", "DELUSER", "shy")


def test_pauses_grow_to_an_eighth_of_the_wait_while_the_caller_is_told() -> None:
    backend = Counting(Clock())
    backend.notices = listener = NoticeListener(lambda: MemoryBroker(Store(), Clock()), backend)
    poll = bases._Poll(backend)
    pauses = [poll._next() for _ in range(10)]
    wait_for(lambda: listener.listening, "a listener")
    assert max(pauses) == bases.LONGEST_PAUSE
    slept = sum(pauses)
    for _ in range(60):
        pauses.append(poll._next())
        assert pauses[-1] <= max(bases.LONGEST_PAUSE, slept / 8)
        slept += pauses[-1]
    assert pauses[-1] == bases.RELAXED_PAUSE
    listener.close()


def test_a_listener_ends_with_its_app_and_starts_again(hourly: None) -> None:
    with waiting() as caller:
        assert caller.listener.close()
        wait_for(lambda: not caller.listener.listening, "the end")
        assert not [one for one in threading.enumerate() if one.name == "celeriac-notices"]
        assert not caller.listener.close()
        caller.listener.begin()
        wait_for(lambda: caller.backend.looks == 3, "a look when it listens again")


# --- Messages -----------------------------------------------------------------------------------------


def test_messages_name_the_channel_of_their_process_where_it_is_needed(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "memory://x")
    script = (
        "from celeriac.model.notices import own_channel; from shop import app, add\n"
        "def sent(**options): return app.message_template('shop.add').message((1, 1), {}, options).reply_to\n"
        "print(sent() == own_channel() != '', sent(countdown=1) == own_channel(), repr(sent(ignore_result=True)))\n"
        "app.conf.task_ignore_result = True\n"
        "print(repr(sent()), sent(ignore_result=False) == own_channel(), app.sends_outcomes)\n"
        "app.conf.result_backend = None\n"
        "print(repr(sent(ignore_result=False)), app.sends_notices)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=shop.environment, capture_output=True,
                          text=True, timeout=PATIENCE, check=True)  # fmt: skip
    assert told.stdout == "True True ''\n'' True False\n'' False\n"


def test_a_child_has_another_channel_than_its_parent() -> None:
    before = own_channel()
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, own_channel().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1000).decode() != before == own_channel()
    os.close(read)
    os.close(write)


# --- Workers ------------------------------------------------------------------------------------------


class Heard(MemoryBroker):
    """Notes what is broadcast, and fails if it is told to."""

    def __init__(self) -> None:
        super().__init__(Store(), Clock())
        self.heard: list[tuple[str, list[str]]] = []
        self.error: Exception | None = None

    async def broadcast(self, channel: str, payloads: Sequence[bytes]) -> None:
        if self.error is not None:
            raise self.error
        self.heard += [(channel, read_notice(payload)) for payload in payloads]


def ended(id: str, reply_to: str = "ended.a", state: str = states.SUCCESS) -> Outcome:
    return Outcome(id=id, task="t", state=state, reply_to=reply_to)


async def test_ends_are_told_in_one_notice_for_each_channel() -> None:
    broker = Heard()
    notifier = Notifier(broker, SyncDictBackend(Clock()))
    notifier.stored([ended("1"), ended("2", "ended.b"), ended("3"), ended("4", ""), ended("5", state=states.RETRY)])
    notifier.stored([ended("6", "ended.b")])
    await notifier.finish()
    assert broker.heard == [("ended.a", ["1", "3"]), ("ended.b", ["2", "6"])]


async def test_too_many_ends_become_a_notice_without_names() -> None:
    broker = Heard()
    notifier = Notifier(broker, SyncDictBackend(Clock()))
    notifier.stored(ended(str(number)) for number in range(MOST_IDS))
    await notifier.finish()
    notifier.stored(ended(str(number)) for number in range(3 * MOST_IDS))
    await notifier.finish()
    assert [len(ids) for _, ids in broker.heard] == [MOST_IDS, 0]


async def test_a_channel_that_is_not_for_notices_is_ignored_and_told(caplog: pytest.LogCaptureFixture) -> None:
    broker = Heard()
    notifier = Notifier(broker, SyncDictBackend(Clock()))
    notifier.stored([ended("1", "control"), ended("2", "reply.x"), ended("3")])
    await notifier.finish()
    assert broker.heard == [("ended.a", ["3"])]
    assert caplog.text.count("is not a channel for notices") == 2


async def test_a_worker_without_the_right_to_tell_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    broker = Heard()
    notifier = Notifier(broker, SyncDictBackend(Clock()))
    broker.error = AccessRefused("no rights")
    for _ in range(2):
        notifier.stored([ended("1")])
        await notifier.finish()
    assert caplog.text.count("may not tell callers") == 1
    assert not notifier._waiting


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), ZeroDivisionError()])
async def test_what_cannot_be_told_is_dropped_and_later_ends_are_told(error: Exception) -> None:
    broker = Heard()
    notifier = Notifier(broker, SyncDictBackend(Clock()))
    duty = asyncio.ensure_future(notifier.run())
    broker.error = error
    for _ in range(2):
        notifier.stored([ended("1"), ended("2", "ended.b")])
        await eventually(lambda: not notifier._waiting)
    broker.error = None
    notifier.stored([ended("3")])
    await eventually(lambda: broker.heard)
    assert broker.heard == [("ended.a", ["3"])]
    duty.cancel()
    with suppress(asyncio.CancelledError):
        await duty


async def test_nothing_is_told_where_the_backend_notifies(make_app: Callable[..., Celeriac]) -> None:
    app = make_app()
    notifier = Notifier(app.broker, app.backend)
    notifier.stored([ended("1")])
    assert not notifier.is_needed
    assert not notifier._waiting
    assert app.backend.notices is None


async def test_a_sqlite_listener_reads_the_broadcasts_of_other_channels_once(tmp_path: Path) -> None:
    broker = open_broker(f"sqlite:///{tmp_path / 'x.db'}", Settings(), Clock())
    await broker.broadcast("other", [b"x"] * 10)
    heard = await broker.listen("c")
    await broker.broadcast("other", [b"x"] * 10)
    await broker.broadcast("c", [b"1"])
    assert await anext(heard) == b"1"
    await broker.broadcast("other", [b"x"] * 10)
    waiting = asyncio.ensure_future(anext(heard))
    await eventually(lambda: heard.ag_frame is not None and heard.ag_frame.f_locals["seen"] == 31)  # type: ignore[attr-defined]
    await broker.broadcast("c", [b"2"])
    assert await waiting == b"2"
    await heard.aclose()  # type: ignore[attr-defined]
    broker.close()
