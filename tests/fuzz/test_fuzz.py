"""The fuzzer: whatever is written into a server, workers, callers and commands go on.

In `make test` each surface gets a few inputs; `make fuzz` gives each 20,000 (`--fuzz N`). A failure prints the seed;
`--fuzz-seed S` repeats its inputs. After every 25 inputs a good task must run; now and then the commands that look at
the server are run, which must not let an exception out. Messages and control commands are read by worker processes
with a pool of each kind, all else by a worker in this process.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from celeriac import Celeriac
from celeriac.app.control import COMMANDS as CHANNEL
from celeriac.app.notices import NoticeListener
from celeriac.inspector import Inspector
from celeriac.model.message import new_id
from celeriac.model.notices import encode_notice, own_channel
from tests.commands import command
from tests.fuzz.feeding import feed, read, shop_on, show, worker_here, worker_process
from tests.fuzz.mutations import Mutator
from tests.fuzz.surfaces import OnRabbitMQ, OnRedis, OnSQLite, Server
from tests.hostile import COMMANDS, MESSAGES, OUTCOMES
from tests.key_value import SyncDictBackend
from tests.patience import PATIENCE, wait_for
from tests.rabbitmq_server import Place

FEW = 50  # inputs for each surface in `make test`
SERVERS = ("sqlite", "redis", "rabbitmq")
POOLS = ("processes", "threads", "solo")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on each server; those that have a pool with each of these, and in `make test` with one of them."""
    if "pool" in metafunc.fixturenames:
        every = [(server, pool) for server in SERVERS for pool in POOLS]
        pairs = every if metafunc.config.getoption("--fuzz") else list(zip(SERVERS, POOLS, strict=True))
        metafunc.parametrize(("server", "pool"), pairs, indirect=["server"])
    elif metafunc.definition.get_closest_marker("parametrize") is None:
        metafunc.parametrize("server", SERVERS, indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    made: Server
    if request.param == "sqlite":
        made = OnSQLite(tmp_path)
    elif request.param == "redis":
        made = OnRedis(request.getfixturevalue("redis"))
    else:
        place: Place = request.getfixturevalue("place")
        made = OnRabbitMQ(place)
    yield made
    made.close()


@pytest.fixture
def app(server: Server) -> Iterator[Celeriac]:
    made = shop_on(server.url)
    assert made.broker.complete(made.broker.operations().queues()) == []  # creates the database
    if isinstance(server, OnRabbitMQ):
        server.reply_to = made.backend.reply_to
    yield made
    made.close()


MESSAGE = {"id": "x", "task": "shop.add", "body": b"[[1,2],{}]", "queue": "default", "lane": "plain", "priority": 5,
           "attempt": 1, "sent_at": 1.7e9, "root_id": "x"}  # fmt: skip


def test_messages(app: Celeriac, server: Server, tmp_path: Path, pool: str, seed: int, count: int) -> None:
    mutator, names = Mutator(seed), random.Random(seed)
    ids = [new_id()]

    def write(number: int) -> None:
        task = names.choice(["shop.add", "shop.add", "unknown"])
        ids[0] = new_id()
        server.message(mutator.make({**MESSAGE, "id": ids[0], "task": task}, list(MESSAGES.values())))

    with worker_process(tmp_path, pool, server.url) as process:
        feed(app, process, count, write, lambda number: show(app, ids[0]))


def test_outcomes(app: Celeriac, server: Server, seed: int, count: int) -> None:
    mutator, ids = Mutator(seed), [new_id() for _ in range(count)]
    good = {"id": "x", "task": "shop.add", "state": "SUCCESS", "attempt": 1, "value": b"3", "done_at": 1.7e9,
            "failure": {"module": "builtins", "type": "ValueError", "message": "x", "args": b'["x"]'}}  # fmt: skip

    def write(number: int) -> None:
        server.outcome(ids[number], mutator.make({**good, "id": ids[number]}, list(OUTCOMES.values())))
        if not isinstance(server, OnRabbitMQ):  # there, bytes without an id are nobody's outcome
            read(app, ids[number])

    with worker_here(app) as process:
        feed(app, process, count, write, lambda number: show(app, *ids[number - 2 : number]))


@pytest.mark.parametrize("server", ["sqlite", "redis"], indirect=True)  # rpc:// keeps none
def test_workflows(app: Celeriac, server: Server, seed: int, count: int) -> None:
    mutator, chance = Mutator(seed), random.Random(seed)
    step = [0, "a", "shop.add", {"id": "", "task": "", "body": b"[[1,2],{}]"}]
    good: dict[str, Any] = {"id": "w", "root": "w", "nodes": [step, [0, "b", "shop.add", step[3], 0]], "end": 1}
    corpus = [b"", b"junk", msgspec.msgpack.encode({**good, "nodes": [[1, "g", [0]]], "end": 0})]

    def write(number: int) -> None:
        node = chance.choice([0, 1, 7, -1, 10**9, b"garbage", b"a:b:x", b":1", b"\xff:0"])
        server.workflow(new_id(), mutator.make(good, corpus), node)

    with worker_here(app) as process:
        feed(app, process, count, write, lambda number: show(app))


def test_infos_of_workers(app: Celeriac, server: Server, seed: int, count: int) -> None:
    mutator = Mutator(seed, lambda value: json.dumps(value, default=repr).encode())
    good: dict[str, Any] = {"name": "w", "host": "h", "pid": 1, "queues": ["default"], "concurrency": {"plain": 2}}

    def write(number: int) -> None:
        info = mutator.make(good, [b"", b"junk", b"[]"])
        server.worker(b"[15.0," + info + b"]" if isinstance(server, OnRedis) else info)

    def look(number: int) -> None:
        assert app.broker.complete(app.broker.operations().workers())
        if number < FEW:  # a command asks each of these workers, and waits for answers in vain
            command(app, "queues")

    with worker_here(app) as process:
        feed(app, process, min(count, 2_000), write, look)


def test_notices(app: Celeriac, server: Server, seed: int, count: int) -> None:
    mutator, woken = Mutator(seed, lambda value: msgspec.msgpack.encode(list(value.values()))), set[str]()

    class Woken(SyncDictBackend):
        def wake(self, ids: Iterable[str] | None) -> None:
            woken.update(ids or ())

    listener = NoticeListener(lambda: app.broker, Woken(app.clock))
    listener.begin()
    wait_for(lambda: listener.listening, "a listener")

    def send(payload: bytes) -> None:
        app.broker.complete(app.broker.broadcast(own_channel(), [payload]))

    def mend() -> None:
        id = new_id()
        send(encode_notice([id]))
        wait_for(lambda: id in woken, "a notice that is heard")

    def write(number: int) -> None:
        send(mutator.make({"first": new_id(), "second": new_id()}, [b"", b"junk", encode_notice([])]))

    with worker_here(app) as process:
        feed(app, process, count, write, lambda number: None, mend)
    listener.close()


COMMAND = {"name": "ping", "arguments": {}, "destination": None, "reply_to": "reply.x"}
NAMES = ["ping", "stats", "active", "reserved", "registered", "rate_limit", "time_limit", "add_consumer",
         "cancel_consumer", "pool_shrink", "terminate", "log_level"]  # fmt: skip


def test_control_commands(app: Celeriac, server: Server, tmp_path: Path, pool: str, seed: int, count: int) -> None:
    mutator, chance = Mutator(seed, lambda value: json.dumps(value, default=repr).encode()), random.Random(seed)

    def write(number: int) -> None:
        name = chance.choice(NAMES)
        arguments = {"task": "shop.add", "queue": f"q{number % 7}",
                     "n": 1, "ids": ["x"], "level": "info", "rate": "9/s"}  # fmt: skip
        taken = {key: arguments[key] for key in chance.sample(sorted(arguments), chance.randrange(4))}
        payload = mutator.make({**COMMAND, "name": name, "arguments": taken}, list(COMMANDS.values())[:-2])
        app.broker.complete(app.broker.broadcast(CHANNEL, [payload]))

    def mend() -> None:
        assert asyncio.run(Inspector(app, timeout=PATIENCE).ping()).values
        app.broker.complete(app.control.send("add_consumer", {"queue": "default"}))  # it may have been cancelled
        app.broker.complete(app.control.send("rate_limit", {"task": "shop.add", "rate": None}))
        app.broker.complete(app.control.send("time_limit", {"task": "shop.add", "soft": None, "hard": None}))

    with worker_process(tmp_path, pool, server.url) as process:
        feed(app, process, count, write, lambda number: show(app), mend)
