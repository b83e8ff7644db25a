"""The fuzzer: whatever is written into a server, workers and callers go on.

In `make test` each surface gets a few hundred inputs; `make fuzz` gives each 20,000 (`--fuzz N`). A failure prints the
seed; `--fuzz-seed S` repeats its inputs. After every 25 inputs a good task must run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from celeriac import Celeriac
from celeriac.app.control import COMMANDS as CHANNEL
from celeriac.errors import CeleriacError
from celeriac.inspector import Inspector
from celeriac.model.message import new_id
from celeriac.testing import running_worker
from tests.fuzz.mutations import Mutator
from tests.fuzz.surfaces import OnRedis, OnSQLite, Server
from tests.hostile import COMMANDS, MESSAGES, OUTCOMES
from tests.patience import PATIENCE

FEW = 150  # inputs for each surface in `make test`
EACH = 25  # inputs between two good tasks
GROWTH = 100 << 20  # bytes that the process may grow by in a long run


@pytest.fixture(params=["sqlite", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Server:
    return OnSQLite(tmp_path) if request.param == "sqlite" else OnRedis(request.getfixturevalue("redis"))


@pytest.fixture
def app(server: Server) -> Iterator[Celeriac]:
    made = Celeriac("shop", broker_url=server.url)

    @made.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    assert made.broker.complete(made.broker.operations().queues()) == []  # creates the database
    yield made
    made.close()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given: int | None = request.config.getoption("--fuzz-seed")
    found = random.randrange(2**32) if given is None else given
    print(f"--fuzz-seed {found}")
    return found


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--fuzz") or FEW)


def feed(app: Celeriac, count: int, write: Callable[[int], None], look: Callable[[int], None] = lambda number: None,
         ) -> None:  # fmt: skip
    """Write inputs while a worker runs; every few, look at the last and run a good task."""
    process, before = psutil.Process(os.getpid()), 0
    with running_worker(app):
        for number in range(count):
            write(number)
            if number % EACH == EACH - 1:
                look(number)
                assert app.tasks["shop.add"].delay(2, 2).get(timeout=PATIENCE) == 4
            if number == count // 4:
                before = process.memory_info().rss
        assert app.tasks["shop.add"].delay(2, 2).get(timeout=PATIENCE) == 4
    assert process.memory_info().rss - before < GROWTH


MESSAGE = {"id": "x", "task": "shop.add", "body": b"[[1,2],{}]", "queue": "default", "lane": "plain", "priority": 5,
           "attempt": 1, "sent_at": 1.7e9, "root_id": "x"}  # fmt: skip


def test_messages(app: Celeriac, server: Server, seed: int, count: int) -> None:
    mutator, names = Mutator(seed), random.Random(seed)

    def write(number: int) -> None:
        task = names.choice(["shop.add", "shop.add", "unknown"])
        server.message(mutator.make({**MESSAGE, "id": new_id(), "task": task}, list(MESSAGES.values())))

    def look(number: int) -> None:
        operations = app.broker.operations()
        complete = app.broker.complete
        assert complete(operations.queues())
        complete(operations.dead(None, 50))
        complete(operations.peek("default", 50))
        complete(operations.scheduled(None, 50))

    feed(app, count, write, look)


def test_outcomes(app: Celeriac, server: Server, seed: int, count: int) -> None:
    mutator, ids = Mutator(seed), [new_id() for _ in range(count)]
    good = {"id": "x", "task": "shop.add", "state": "SUCCESS", "attempt": 1, "value": b"3", "done_at": 1.7e9,
            "failure": {"module": "builtins", "type": "ValueError", "message": "x", "args": b'["x"]'}}  # fmt: skip

    def write(number: int) -> None:
        server.outcome(ids[number], mutator.make({**good, "id": ids[number]}, list(OUTCOMES.values())))
        read(app, ids[number])

    def look(number: int) -> None:
        assert asyncio.run(Inspector(app).recent(50)) is not None

    feed(app, count, write, look)


def test_workflows(app: Celeriac, server: Server, seed: int, count: int) -> None:
    mutator, chance = Mutator(seed), random.Random(seed)
    step = [0, "a", "shop.add", {"id": "", "task": "", "body": b"[[1,2],{}]"}]
    good: dict[str, Any] = {"id": "w", "root": "w", "nodes": [step, [0, "b", "shop.add", step[3], 0]], "end": 1}
    corpus = [b"", b"junk", msgspec.msgpack.encode({**good, "nodes": [[1, "g", [0]]], "end": 0})]

    def write(number: int) -> None:
        node = chance.choice([0, 1, 7, -1, 10**9, b"garbage", b"a:b:x", b":1", b"\xff:0"])
        server.workflow(new_id(), mutator.make(good, corpus), node)

    feed(app, count, write)


def read(app: Celeriac, id: str) -> None:
    """Read a result in each way. Only errors of Celeriac's may be raised, or that which the outcome holds."""
    result, outcome = app.AsyncResult(id), app.backend.fetch([id])[id]
    assert isinstance(result.state, str)
    if result.ready():
        stored = outcome.exception()
        for way in (lambda: result.get(timeout=PATIENCE), lambda: result.result, lambda: result.traceback):
            with suppress(CeleriacError, type(stored)):
                way()


def test_infos_of_workers(app: Celeriac, server: Server, seed: int, count: int) -> None:
    mutator = Mutator(seed, lambda value: json.dumps(value, default=repr).encode())
    good: dict[str, Any] = {"name": "w", "host": "h", "pid": 1, "queues": ["default"], "concurrency": {"plain": 2}}

    def write(number: int) -> None:
        info = mutator.make(good, [b"", b"junk", b"[]"])
        server.worker(b"[15.0," + info + b"]" if isinstance(server, OnRedis) else info)

    feed(app, min(count, 2_000), write, lambda number: _show_workers(app))


def _show_workers(app: Celeriac) -> None:
    assert len(app.broker.complete(app.broker.operations().workers())) > 1


COMMAND = {"name": "ping", "arguments": {}, "destination": None, "reply_to": "reply.x"}
NAMES = ["ping", "stats", "active", "reserved", "registered", "rate_limit", "time_limit", "add_consumer",
         "cancel_consumer", "pool_shrink", "terminate", "log_level"]  # fmt: skip


def test_control_commands(app: Celeriac, seed: int, count: int, caplog: pytest.LogCaptureFixture) -> None:
    mutator, chance = Mutator(seed, lambda value: json.dumps(value, default=repr).encode()), random.Random(seed)

    def write(number: int) -> None:
        name = chance.choice(NAMES)
        arguments = {"task": "shop.add", "queue": f"q{number % 7}",
                     "n": 1, "ids": ["x"], "level": "info", "rate": "9/s"}  # fmt: skip
        taken = {key: arguments[key] for key in chance.sample(sorted(arguments), chance.randrange(4))}
        payload = mutator.make({**COMMAND, "name": name, "arguments": taken}, list(COMMANDS.values())[:-2])
        app.broker.complete(app.broker.broadcast(CHANNEL, [payload]))

    def look(number: int) -> None:
        assert asyncio.run(Inspector(app, timeout=PATIENCE).ping()).values
        app.broker.complete(app.control.send("add_consumer", {"queue": "default"}))  # it may have been cancelled
        app.broker.complete(app.control.send("rate_limit", {"task": "shop.add", "rate": None}))

    feed(app, count, write, look)
