"""What is in result stores stops neither workers nor callers: outcomes and workflows with hostile bytes.

The messages of the tasks say that they were published again, so that a worker looks for their outcomes, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from celeriac.model.message import Message, new_id
from celeriac.ports.workflows import WorkflowStore
from tests.commands import command
from tests.fuzz.feeding import feed, read, shop_on, worker_here
from tests.fuzz.mutations import Mutator
from tests.fuzz.result_surfaces import (
    ResultsInMemcached,
    ResultsInMongoDB,
    ResultsInSQL,
    ResultsInTyrant,
    ResultSurface,
)
from tests.hostile import OUTCOMES
from tests.memcached_server import running_memcached
from tests.mongodb_server import LEFT, database_on
from tests.tyrant_server import running_tyrant

pytestmark = [pytest.mark.filterwarnings(LEFT), pytest.mark.usefixtures("collected")]

FEW = 25  # inputs in `make test`


STORES = ("sqlite", "mongodb", "memcached", "tyrant")
OTHERS = ("postgresql", "mariadb")  # in `make test`, SQLite stands for them: the bytes are read by the same code


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    found = (*STORES, *OTHERS) if metafunc.config.getoption("--fuzz") else STORES
    metafunc.parametrize("surface", found, indirect=True)


@pytest.fixture
def surface(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> Iterator[ResultSurface]:
    made: ResultSurface
    with ExitStack() as stack:
        if request.param == "sqlite":
            made = ResultsInSQL(f"db+sqlite:///{tmp_path}/results.db")
        elif request.param == "mongodb":
            url = stack.enter_context(database_on(request.getfixturevalue("mongodb")))
            made = ResultsInMongoDB(url, Random(seed))
        elif request.param == "memcached":
            made = ResultsInMemcached(stack.enter_context(running_memcached()).port)
        elif request.param == "tyrant":
            made = ResultsInTyrant(stack.enter_context(running_tyrant()).port, Random(seed))
        else:
            server: Any = request.getfixturevalue(f"shared_{request.param}")
            made = ResultsInSQL(server.url(server.database()))
        yield made
        made.close()


def test_what_is_in_a_result_store_stops_nobody(surface: ResultSurface, seed: int, count: int,
                                                caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    caplog.set_level(logging.CRITICAL, "celeriac")  # records of errors that are kept would count as growth
    random, mutator = Random(seed), Mutator(seed)
    app = shop_on(f"memory://{new_id()}", surface.url)
    good = {"id": "x", "task": "shop.add", "state": "SUCCESS", "attempt": 1, "value": b"3", "done_at": 1.7e9,
            "failure": {"module": "builtins", "type": "ValueError", "message": "x", "args": b'["x"]'}}  # fmt: skip
    step = [0, "a", "shop.add", {"id": "", "task": "", "body": b"[[1,2],{}]"}]
    tree = {"id": "w", "root": "w", "nodes": [step, [0, "b", "shop.add", step[3], 0]], "end": 1}
    ids = [new_id() for _ in range(count)]

    def write(number: int) -> None:
        id = ids[number]
        surface.outcome(id, mutator.make({**good, "id": id}, list(OUTCOMES.values())))
        if id in app.backend.fetch([id]):  # Tyrant keeps some that are over
            read(app, id)
        app.broker.publish([Message(id=id, task="shop.add", body=b"[[1,2],{}]", again=True)])
        if isinstance(app.backend, WorkflowStore):
            surface.workflow(new_id(), mutator.make(tree, [b"", b"junk", msgspec.msgpack.encode(tree)]),
                             random.choice((0, 1, 7, -1, 10**9)))  # fmt: skip

    def look(number: int) -> None:
        for id in ids[number - 2 : number]:
            command(app, "tasks", "show", id)
            command(app, "result", id)
        command(app, "tasks")

    with worker_here(app) as process:
        feed(app, process, count, write, look)
    app.close()
