"""A broker that lies stops neither workers nor callers: what it says to them, by STOMP and AMQP 1.0, is changed.

Between them and a real server is a proxy that lies. After every 25 lies it passes all on again, and a task runs, or a
caller hears of a result.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from celeriac import Celeriac
from celeriac.brokers.queue_server import presence
from celeriac.errors import CeleriacError
from celeriac.model import pauses
from celeriac.model.message import Message, new_id
from celeriac.model.outcome import Outcome
from celeriac.worker import heartbeat
from tests.fuzz.feeding import EACH, feed, shop_on, worker_here
from tests.fuzz.lies import LyingProxy
from tests.fuzz.message_servers import LIARS, kinds, url_of
from tests.patience import PATIENCE, wait_for

FEW = 25  # lies in `make test`
SOON = 0.3  # seconds, after which callers give up
SHORT = 0.02  # the longest pause of a worker


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("proxied", kinds(metafunc.config), indirect=True)


class Proxied(NamedTuple):
    """A server, and a proxy to it that lies."""

    url: str  # through the proxy
    straight: str
    proxy: LyingProxy


@pytest.fixture(autouse=True)
def texts() -> Iterator[None]:
    """What is logged is kept as text: pytest keeps all records, and an error holds what came on its connection."""
    before = logging.getLogRecordFactory()

    def made(*args: Any, **named: Any) -> logging.LogRecord:
        record = before(*args, **named)
        record.msg, record.args = record.getMessage(), None
        return record

    logging.setLogRecordFactory(made)
    yield
    logging.setLogRecordFactory(before)


@pytest.fixture
def proxied(request: pytest.FixtureRequest, seed: int) -> Iterator[Proxied]:
    url = url_of(request.param, request)
    port = urlsplit(url).port
    assert port is not None
    proxy = LyingProxy(port, LIARS[request.param](seed), Random(seed))
    yield Proxied(url.replace(f":{port}", f":{proxy.port}"), url, proxy)
    proxy.close()


def test_a_server_that_lies_stops_nobody(
    proxied: Proxied, seed: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(heartbeat, "LONGEST_PAUSE", SHORT)
    monkeypatch.setattr(presence, "ANSWER_SECONDS", SOON)  # for a worker that was lied to, and will not answer
    url, _, proxy = proxied
    random = Random(seed)
    results = f"sqlite:///{tmp_path}/results.db"  # what is sent to a caller that was cut off may be lost
    app = shop_on(url, results, broker_publish_timeout=PATIENCE)
    worker, caller = shop_on(url, results, broker_publish_timeout=10.0), shop_on(url, broker_publish_timeout=SOON)

    def write(number: int) -> None:
        proxy.tell(random.randint(1, 3))
        if random.random() < 0.3:
            proxy.interrupt()
        with suppress(CeleriacError):
            random.choice(WAYS)(caller)

    def mend() -> None:
        proxy.be_honest()
        assert_quiet(caplog)

    with worker_here(worker) as process:
        feed(app, process, count, write, lambda number: None, mend)
    for one in (app, worker, caller):
        one.close()
    assert proxy.told >= count / 2
    assert_quiet(caplog)


def test_a_caller_that_was_lied_to_hears_of_results_again(
    proxied: Proxied, seed: int, count: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By `rpc://`. What is sent while its connection is lost is lost, so an outcome is sent until it is heard."""
    monkeypatch.setattr(pauses, "PAUSES", (SHORT,))
    random, proxy = Random(seed), proxied.proxy
    caller, sender = (shop_on(url, "rpc://", broker_publish_timeout=PATIENCE) for url in proxied[:2])
    address = caller.backend.reply_to
    for number in range(count):
        before, until = proxy.told, time.monotonic() + SOON / 3
        proxy.tell(random.randint(1, 3), random.randrange(4))
        proxy.interrupt() if random.random() < 0.3 else proxy.cut()
        while proxy.told == before and time.monotonic() < until:  # it may have asked for less
            time.sleep(SHORT / 4)
        if number % EACH == EACH - 1:
            proxy.be_honest()
            assert_quiet(caplog)
            outcome = Outcome(id=new_id(), task="shop.add", state="SUCCESS", reply_to=address)
            wait_for(lambda outcome=outcome: heard(sender, caller, outcome), "an outcome that is heard")
    for app in (caller, sender):
        app.close()
    assert proxy.told
    assert_quiet(caplog)


def heard(sender: Celeriac, caller: Celeriac, outcome: Outcome) -> bool:
    """Send an outcome, and return whether the caller knows it a little later."""
    sender.broker.complete(sender.backend.store([outcome]))
    return outcome.id in caller.backend.fetch([outcome.id], SOON)


def assert_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Fail if a traceback was logged, or the event loop has found an error that nobody has looked at."""
    gc.collect()
    wrong = [record for record in caplog.records if record.exc_info or record.name == "asyncio"]
    assert not wrong, "\n".join(f"{record.name}: {record.getMessage()}\n{record.exc_text}" for record in wrong[:5])
    caplog.clear()


def message() -> Message:
    return Message(id=new_id(), task="shop.none", queue="nobody")


def listened(app: Celeriac) -> None:
    async def listen() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SOON / 10):
                async for _ in await app.broker.listen("celeriac"):
                    pass

    asyncio.run(listen())


WAYS: list[Callable[[Celeriac], Any]] = [
    lambda app: app.broker.publish([message()]),
    lambda app: app.broker.publish([message() for _ in range(3)]),
    lambda app: asyncio.run(app.broker.apublish([message()])),
    lambda app: asyncio.run(app.broker.operations().queues()),
    lambda app: asyncio.run(app.broker.operations().peek("nobody", 5)),
    lambda app: asyncio.run(app.broker.operations().dead(None, 5)),
    lambda app: asyncio.run(app.broker.broadcast("celeriac", [b"x"])),
    lambda app: app.backend.fetch([new_id()], 0.01),
    listened,
]
