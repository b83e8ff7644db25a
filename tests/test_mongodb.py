"""MongoDB as a result backend: the suites of its ports, and what is its own: limits, the fence, breaks, forks, indexes.

`test_mongodb_outages.py` has what happens when the server is away, and a worker that stores its results there.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import bson
import psutil
import pytest
from pymongo.errors import BulkWriteError

from celeriac import states
from celeriac.app.connections import open_backend, open_broker, shown
from celeriac.backends.mongodb import MongoBackend, connect
from celeriac.brokers.memory import MemoryBroker
from celeriac.config.settings import Settings
from celeriac.drivers.memory import Store
from celeriac.drivers.mongodb import workflows
from celeriac.drivers.mongodb.address import Address
from celeriac.drivers.mongodb.changes import WORD
from celeriac.drivers.mongodb.outcomes import MOST, store
from celeriac.drivers.mongodb.requests import Request, Work, call
from celeriac.drivers.mongodb.server import Server
from celeriac.drivers.mongodb.workflows import MOST_NODES
from celeriac.errors import BackendError, ImproperlyConfigured, Unstorable, WorkflowError
from celeriac.model.clock import Clock
from celeriac.model.message import Place, new_id
from celeriac.model.outcome import Outcome
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore
from celeriac.ports.workflows import UNFINISHED_SECONDS, Advance, NodeEnd, PendingNode
from tests.clock import FakeClock
from tests.conformance.backend import BackendConformance, WorkflowConformance, node_end, plan
from tests.conformance.broker import Ports
from tests.conformance.schedules import SchedulesConformance, entry
from tests.mongodb_server import LEFT, MongoServer, database_on
from tests.patience import FOR_EVER, PATIENCE
from tests.test_docs import DOCS, WORKER, Reader, blocks

pytestmark = [pytest.mark.filterwarnings(LEFT), pytest.mark.usefixtures("collected")]

TIMEOUT = 60.0


@pytest.fixture
def url(mongodb: MongoServer) -> Iterator[str]:
    """The URL of an empty database."""
    with database_on(mongodb) as found:
        yield found


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time.time())  # the server deletes by its own clock


@pytest.fixture
def backend(url: str, clock: FakeClock) -> Iterator[MongoBackend]:
    made = MongoBackend(Server(url, timeout=TIMEOUT), clock)
    yield made
    made.close()


@pytest.fixture
def ports(backend: MongoBackend, clock: FakeClock) -> Ports:
    messages = Store()
    return Ports(MemoryBroker(messages, clock), backend, clock, lambda: MemoryBroker(messages, clock))


class TestBackend(BackendConformance):
    pass


class TestWorkflows(WorkflowConformance):
    pass


class TestSchedules(SchedulesConformance):
    @pytest.fixture
    def schedules(self, ports: Ports) -> ScheduleStore:
        assert isinstance(ports.backend, ScheduleKeeper)
        kept = ports.backend.schedules()
        assert not kept.publishes
        return kept


async def test_a_schedule_that_is_unreadable_is_set_aside(backend: MongoBackend) -> None:
    schedules = backend.schedules()
    assert await schedules.create([entry("good"), entry("bad")]) == [True, True]
    rows = backend.server.client()[backend.server.address.database]["celeriac.schedules"]
    for junk in ({"entry": b"\xff"}, {"entry": 1}, {"entry": b"x", "revision": "1"}):
        rows.update_one({"_id": "bad"}, {"$set": {"next_at": 0, **junk}})
        assert [one.name for one in (await schedules.due(10)).entries] == ["good"]
        assert list(await schedules.get(["bad", "good"])) == ["good"]
        assert "next_at" not in (rows.find_one({"_id": "bad"}) or {})
    assert (await schedules.due(10)).soonest is None


def outcome(state: str = states.SUCCESS, id: str = "", **fields: Any) -> Outcome:
    return Outcome(id=id or new_id(), task="t", state=state, **fields)


def rows(backend: MongoBackend, collection: str = "outcomes") -> list[dict[str, Any]]:
    client = backend.server.client()
    return list(client[backend.server.address.database][f"{backend.server.prefix}.{collection}"].find())


# --- Addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "hosts", "database"),
    [
        ("mongodb://db", "db:27017", "celeriac"),
        ("mongodb://u:p%40ss@one,two:7/results?replicaSet=rs", "one:27017,two:7", "results"),
        ("mongodb+srv://u:p@cluster.example.net/r", "cluster.example.net", "r"),
    ],
)
def test_urls_are_parsed(url: str, hosts: str, database: str) -> None:
    found = Address.of(url)
    assert (found.hosts, found.database, found.url) == (hosts, database, url)
    assert "p%40ss" not in repr(found)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mongodb://", "host"),
        ("mongodb://db:x/r", "[Pp]ort"),
        ("mongodb://db/r?noSuchOption=1", "Unknown option"),
        ("mongodb://db/r.outcomes", "no dot"),
        ("mongodb://u:se/cret@db/r", "%2F"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"{words}.*write mongodb://host:27017/celeriac") as caught:
        Address.of(url)
    assert "cret" not in str(caught.value)


def test_mongodb_is_only_a_result_backend() -> None:
    url = "mongodb://u:secret@db/r"
    with pytest.raises(ImproperlyConfigured, match=r"mongodb:// is only a result backend\. Set `broker_url`"):
        open_broker(url, Settings(), Clock())
    opened = open_backend(url, "memory://", Settings({"mongodb_prefix": "shop"}), Clock())
    assert isinstance(opened, MongoBackend)
    assert opened.server.prefix == "shop"
    for text in (repr(opened), repr(opened.server), shown(url)):
        assert "secret" not in text


def test_what_the_page_says_can_be_done(url: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    try:
        for block in blocks(DOCS / "backends" / "mongodb.md"):
            reader.read(block._replace(text=block.text.replace("mongodb://localhost/shop", url)))
        reader.stop(WORKER)
        assert reader.code == 0
    finally:
        reader.leave()


# --- The fence ----------------------------------------------------------------------------------------


def test_of_many_threads_that_store_a_final_outcome_one_is_first(backend: MongoBackend) -> None:
    same = outcome(value=b"1")
    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(lambda _: asyncio.run(backend.store([same])), range(8)))
    assert sorted(done) == [[False]] * 7 + [[True]]


def test_of_two_processes_that_store_a_final_outcome_one_is_first(url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    ids = [new_id() for _ in range(20)]
    with spawn.Pool(2) as pool:
        found = pool.starmap(_store_all, [(url, ids, value) for value in (b"1", b"2")])
    assert [first + second for first, second in zip(*found, strict=True)] == [1] * 20


def _store_all(url: str, ids: list[str], value: bytes) -> list[int]:
    async def store_all() -> list[int]:
        backend = MongoBackend(Server(url, timeout=TIMEOUT), Clock())
        return [int(first) for id in ids for first in await backend.store([outcome(id=id, value=value)])]

    return asyncio.run(store_all())


def test_a_final_outcome_is_not_refused_because_of_another_that_comes_at_the_same_time(backend: MongoBackend) -> None:
    """Both insert a document; the one that is late fails as if the id had ended."""
    asyncio.run(backend.store([outcome()]))  # makes the indexes
    for _ in range(15):
        id, start = new_id(), threading.Barrier(2)

        def started(state: str, id: str = id, start: threading.Barrier = start) -> list[bool]:
            async def work() -> list[bool]:
                await backend.alook(["nobody"], False)  # connects
                start.wait(PATIENCE)
                return await backend.store([outcome(state, id=id)])

            return asyncio.run(work())

        with ThreadPoolExecutor(2) as threads:
            [_, ended] = threads.map(started, (states.STARTED, states.SUCCESS))
        assert ended == [True]
        assert backend.fetch([id])[id].state == states.SUCCESS


def test_a_duplicate_key_is_asked_for_again(backend: MongoBackend, clock: FakeClock) -> None:
    """As a server answers an upsert whose document another process has inserted since it looked."""
    started, ended = outcome(states.STARTED, "x"), outcome(states.SUCCESS, "x")
    asyncio.run(backend.store([started]))
    work = store([backend._pack(ended)], clock.now(), 60.0)
    next(work)
    again = work.throw(BulkWriteError({"writeErrors": [{"index": 0, "code": 11000}], "writeConcernErrors": []}))
    assert backend.server.do(_then(again, work)) == [True]
    assert backend.fetch(["x"]) == {"x": ended}


def _then(request: Request, work: Work[Any]) -> Work[Any]:
    """Go on with work that has yielded a request."""
    try:
        while True:
            request = work.send((yield request))
    except StopIteration as end:
        return end.value


async def test_of_one_batch_the_last_states_and_the_first_end_stay(backend: MongoBackend) -> None:
    a, b = new_id(), new_id()
    batch = [
        outcome(states.STARTED, a), outcome(states.RETRY, a), outcome(states.STARTED, b), outcome(states.FAILURE, b),
        outcome(states.SUCCESS, b), outcome(states.STARTED, b),
    ]  # fmt: skip
    assert await backend.store(batch) == [True, True, True, True, False, False]
    assert {id: found.state for id, found in backend.fetch([a, b]).items()} == {a: states.RETRY, b: states.FAILURE}


async def test_an_id_is_free_again_when_its_outcome_has_expired(backend: MongoBackend, clock: FakeClock) -> None:
    """The server deletes what has expired about once a minute."""
    assert await backend.store([outcome(id="mine", value=b"1")]) == [True]
    clock.advance(86400.0 + 1)
    assert await backend.store([outcome(id="mine", value=b"2")]) == [True]
    assert backend.fetch(["mine"])["mine"].value == b"2"


# --- What is stored -----------------------------------------------------------------------------------


async def test_a_value_that_is_too_large_becomes_a_failure_and_holds_up_nothing(backend: MongoBackend) -> None:
    large, started, small = outcome(value=b"1" * 20_000_000), outcome(states.RETRY, value=b"1" * 20_000_000), outcome()
    assert await backend.store([large, started, small]) == [True, True, True]
    found = backend.fetch([large.id, started.id, small.id])
    assert found[small.id] == small
    assert found[started.id].state == states.RETRY
    error = found[large.id].exception()
    assert isinstance(error, BackendError)
    assert "20,000,0" in str(error)
    assert "MongoDB keeps up to 16,711,680" in str(error)


async def test_the_largest_value_is_stored(backend: MongoBackend) -> None:
    value = b"1" * (MOST - 1000)
    largest = outcome(value=value)
    assert await backend.store([largest]) == [True]
    assert backend.fetch([largest.id])[largest.id].value == value


async def test_a_node_whose_value_is_too_large_ends_as_a_failure_that_is_followed(backend: MongoBackend) -> None:
    backend.plant(plan("w", left=1, missing={1: 1}))
    large = Outcome(id=new_id(), task="t", state=states.SUCCESS, value=b"1" * 20_000_000, place=Place("w", 0, 1))
    assert await backend.conclude([NodeEnd(large)]) == [True]
    assert set(await backend.claim_pending(10, 5.0)) == {PendingNode("w", 0), PendingNode("w", 1)}


async def test_a_request_that_is_too_large_is_not_sent_again_for_ever(backend: MongoBackend) -> None:
    with pytest.raises(Unstorable, match="at most 16 MB"):
        await backend.server.ado(_only(call("outcomes", "insert_one", {"_id": "x", "value": b"1" * 20_000_000})))


def _only(request: Request) -> Work[Any]:
    return (yield request)


async def test_what_expires_has_a_date_for_the_servers_index(url: str, clock: FakeClock) -> None:
    for seconds, dated in ((60.0, True), (None, False), (1e15, True)):
        backend = MongoBackend(Server(url, timeout=TIMEOUT), clock, seconds)
        stored = outcome(id=f"{seconds}")
        await backend.store([outcome(states.STARTED, stored.id), stored])
        [row] = [row for row in rows(backend) if row["_id"] == stored.id]
        assert ("expires_at" in row) is dated
        backend.close()
    indexes = backend.server.client()[backend.server.address.database]["celeriac.outcomes"].index_information()
    assert indexes["expires_at"]["expireAfterSeconds"] == 0
    assert indexes["stored_at"]["key"] == [("stored_at", -1), ("state", 1)]
    backend.close()


async def test_an_index_that_cannot_be_made_is_told_once(backend: MongoBackend,
                                                         caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    database = backend.server.client()[backend.server.address.database]
    database["celeriac.outcomes"].create_index("expires_at", name="expires_at", expireAfterSeconds=5)
    for _ in range(2):
        assert await backend.store([outcome()]) == [True]
        backend.server._indexed_until.clear()
    assert [record.message for record in caplog.records if "cannot be made" in record.message] == [caplog.messages[0]]


async def test_bytes_that_are_no_outcome_are_told(backend: MongoBackend) -> None:
    good = outcome()
    await backend.store([good])
    database = backend.server.client()[backend.server.address.database]
    for junk in ("text", b"\xff", None, {}):
        database["celeriac.outcomes"].update_one({"_id": good.id}, {"$set": {"outcome": junk}})
        assert "unreadable" in str(backend.fetch([good.id])[good.id].exception())
    database["celeriac.workflows"].insert_one({"_id": "w", "left": "x", "missing": [], "next_at": "soon"})
    database["celeriac.trees"].insert_one({"_id": "w", "tree": 1})
    assert backend.trees(["w"]) == {}
    assert await backend.claim_pending(10, 5.0) == {}


# --- Workflows ----------------------------------------------------------------------------------------


def test_a_workflow_that_does_not_fit_is_refused_with_its_size(backend: MongoBackend) -> None:
    for large in (plan("w", left=500_001), plan("w", tree=b"1" * 17_000_000)):
        with pytest.raises(WorkflowError, match=r"too large for MongoDB.*Send it in parts"):
            backend.plant(large)
    assert backend.trees(["w"]) == {}


def test_the_counters_of_the_largest_workflow_fit_in_a_document() -> None:
    """All of its nodes have ended and are pending, and none of its joins has been counted down."""
    nodes = [str(node) for node in range(MOST_NODES)]
    words = dict.fromkeys(map(str, range(MOST_NODES // WORD + 1)), 2**WORD - 1)
    counters = {"_id": new_id(), "left": 0, "missing": dict.fromkeys(nodes, MOST_NODES), "ended": words,
                "pending": dict.fromkeys(nodes, 0.0)}  # fmt: skip
    assert len(bson.encode(counters)) < MOST


class Break(Exception):
    pass


class BreaksOff(Server):
    """Does a number of requests, and then breaks off: before the next one, or when the server has carried it out."""

    left = -1
    carried_out = False

    async def ado(self, work: Work[Any]) -> Any:
        return await super().ado(self._count(work))

    def _count(self, work: Work[Any]) -> Work[Any]:
        try:
            request = next(work)
            while True:
                if self.left == 0 and self.carried_out:
                    yield request
                if self.left == 0:
                    raise Break
                self.left -= 1
                try:
                    answer = yield request
                except Exception as error:
                    request = work.throw(error)
                else:
                    request = work.send(answer)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("carried_out", [False, True], ids=["before a request", "after it"])
async def test_an_end_that_breaks_off_anywhere_is_made_whole_by_the_next(url: str, clock: FakeClock,
                                                                        carried_out: bool) -> None:  # fmt: skip
    requests = 0
    while await _broken_off(url, clock, requests, carried_out):
        requests += 1
    assert requests > 10


async def _broken_off(url: str, clock: FakeClock, requests: int, carried_out: bool) -> bool:
    """Break off after so many requests of an end and an advance, and look at what the next try leaves.

    Returns whether it came to that.
    """
    server = BreaksOff(url, timeout=TIMEOUT)
    backend = MongoBackend(server, clock)
    database = server.client()[server.address.database]
    for name in database.list_collection_names():
        database[name].delete_many({})
    backend.plant(plan("outer", left=1, missing={1: 1}))
    backend.plant(plan("inner", left=2, missing={3: 1}))
    end = node_end("inner", 0, leaves_pending=True)
    stands_for, inside = node_end("outer", 0, join=1).outcome, node_end("inner", 1).outcome
    advance = Advance(pending=PendingNode("inner", 0), outcomes=[stands_for, inside], joins=[3])
    steps: list[Callable[[], Any]] = [lambda: backend.conclude([end]), lambda: backend.advance([advance])]
    server.left, server.carried_out = requests, carried_out
    broken = 0
    for step in steps:
        try:
            await step()
        except Break:
            broken += 1
            server.left = -1
            await step()
    server.left = -1
    left = await backend.claim_pending(10, 5.0)
    assert set(left) == {PendingNode("inner", 3), PendingNode("outer", 0), PendingNode("outer", 1)}, requests
    assert set(backend.fetch([end.outcome.id, stands_for.id, inside.id])) == {end.outcome.id, stands_for.id, inside.id}
    assert {row["_id"]: row["left"] for row in rows(backend, "workflows")} == {"inner": 0, "outer": 0}, requests
    backend.close()
    return broken == 1


async def test_each_member_counts_once_however_many_workers_count_it(backend: MongoBackend) -> None:
    """The ends of one group, in batches that overlap, as they come when messages are delivered again."""
    backend.plant(plan("w", left=60, missing={60: 60}))
    ends = [node_end("w", number, join=60) for number in range(60)]
    parts = [ends[start : start + 20] for start in range(0, 60, 10)] + [ends[50:], ends[:1]]
    done = await asyncio.gather(*[asyncio.to_thread(asyncio.run, backend.conclude(part)) for part in parts])
    assert sum(map(sum, done)) == 60
    [row] = rows(backend, "workflows")
    assert (row["left"], row["missing"]) == (0, {})
    claimed = await backend.claim_pending(100, 5.0)
    assert PendingNode("w", 60) in claimed


async def test_two_workers_claim_different_nodes_while_others_are_added(backend: MongoBackend) -> None:
    backend.plant(plan("w", left=40))
    ends = [node_end("w", number, leaves_pending=True) for number in range(40)]

    async def claim() -> list[PendingNode]:
        found: list[PendingNode] = []
        for _ in range(10):
            found += await backend.claim_pending(3, 600.0)
        return found

    async def add() -> None:
        for start in range(0, 40, 4):
            await backend.conclude(ends[start : start + 4])

    first, second, _ = await asyncio.gather(*[asyncio.to_thread(asyncio.run, work()) for work in (claim, claim, add)])
    rest = list(await backend.claim_pending(100, 600.0))
    assert sorted(item.node for item in [*first, *second, *rest]) == list(range(40))
    assert await backend.claim_pending(100, 600.0) == {}


async def test_a_claim_does_not_hide_a_node_that_is_added_meanwhile(backend: MongoBackend, clock: FakeClock) -> None:
    backend.plant(plan("w", left=3))
    await backend.conclude([node_end("w", 0, leaves_pending=True)])
    work = workflows.claim_pending(10, 600.0, clock.now())
    found = backend.server.do(_only(next(work)))
    await backend.conclude([node_end("w", 1, leaves_pending=True)])
    claimed = backend.server.do(_then(work.send(found), work))
    assert {*claimed, *await backend.claim_pending(10, 600.0)} == {PendingNode("w", 0), PendingNode("w", 1)}


async def test_a_node_that_was_stored_and_not_counted_is_counted_and_left_pending(backend: MongoBackend) -> None:
    backend.plant(plan("w", left=1, missing={1: 1}))
    end = node_end("w", 0, join=1)
    await backend.store([end.outcome])
    assert await backend.conclude([end]) == [False]
    assert set(await backend.claim_pending(10, 5.0)) == {PendingNode("w", 0), PendingNode("w", 1)}
    assert await backend.conclude([end]) == [False]
    assert await backend.claim_pending(10, 5.0) == {}


@pytest.mark.parametrize("field", ["left", "missing", "ended", "pending", "pending.0", "additions", "tree_at"])
async def test_counters_that_another_program_has_changed_hold_up_no_other_workflow(backend: MongoBackend,
                                                                                   field: str) -> None:  # fmt: skip
    place, _, node = field.partition(".")
    counters = backend.server.client()[backend.server.address.database]["celeriac.workflows"]
    for number, junk in enumerate((None, "x", math.nan, [1], {"x": {"$gt": 1}})):
        good, bad = f"good{number}", f"bad{number}"
        for id in (bad, good):
            backend.plant(plan(id, left=3, missing={2: 9}))
            await backend.conclude([node_end(id, 0, join=2, leaves_pending=True)])
        changed = counters.find_one({"_id": bad}) or {}
        changed[place] = {node: junk} if node else junk
        counters.replace_one({"_id": bad}, changed)
        claimed = await backend.claim_pending(10, 5.0)
        assert PendingNode(good, 0) in claimed
        with suppress(Unstorable):
            await backend.conclude([node_end(bad, 1, join=2)])
        for one in claimed:
            with suppress(Unstorable):
                await backend.advance([Advance(pending=one, joins=[2])])
            await backend.advance([Advance(pending=one)])
        assert await backend.claim_pending(10, 5.0) == {}


async def test_an_idle_workflow_is_not_looked_at_again(backend: MongoBackend, clock: FakeClock) -> None:
    backend.plant(plan("w", left=2))
    await backend.conclude([node_end("w", 0, leaves_pending=True)])
    [node] = await backend.claim_pending(10, 5.0)
    assert await backend.advance([Advance(pending=node)]) == [True]
    clock.advance(6)
    assert await backend.claim_pending(10, 5.0) == {}
    [row] = rows(backend, "workflows")
    assert "next_at" not in row


async def test_the_tree_of_a_workflow_that_goes_on_for_months_stays(backend: MongoBackend, clock: FakeClock) -> None:
    backend.plant(plan("w", left=5))
    for number in range(4):
        clock.advance(0.9 * UNFINISHED_SECONDS)
        await backend.conclude([node_end("w", number)])
    assert backend.trees(["w"]) == {"w": b"tree"}


# --- Processes and loops ------------------------------------------------------------------------------


async def test_a_fork_opens_its_own_connections(backend: MongoBackend) -> None:
    """The child of a process whose threads and loop have clients has others, and the parent's stay as they are."""
    before = outcome(value=b"1")
    await backend.store([before])
    backend.fetch([before.id])
    parents = backend.server.client(), backend.server.session().client
    await asyncio.to_thread(_in_fork, lambda: _uses_new_clients(backend, before.id, parents))
    assert (backend.server.client(), backend.server.session().client) == parents
    assert set(backend.fetch([before.id, "forked"])) == {before.id, "forked"}
    assert set(await backend.afetch([before.id, "forked"])) == {before.id, "forked"}


def _uses_new_clients(backend: MongoBackend, id: str, parents: tuple[Any, Any]) -> bool:
    assert set(backend.fetch([id])) == {id}
    assert asyncio.run(backend.store([outcome(id="forked")])) == [True]
    return backend.server.client() is not parents[0]


def _in_fork(check: Callable[[], bool]) -> None:
    child = os.fork()
    if child == 0:
        good = False
        try:
            good = check()
        finally:
            os._exit(0 if good else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


async def test_a_cancellation_that_the_driver_loses_is_kept(backend: MongoBackend) -> None:
    begun = asyncio.Event()

    async def loses() -> str:  # as `asyncio.wait_for` does, if the answer comes in the same turn of the loop
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(FOR_EVER)
        return "answer"

    task = asyncio.create_task(backend.server.ado(_only(lambda collections: loses())))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task], timeout=PATIENCE)
    assert task.cancelled()


def test_the_connections_of_a_loop_end_with_it(url: str) -> None:
    backend = MongoBackend(Server(url, timeout=TIMEOUT), Clock())
    port = int(backend.server.address.hosts.rpartition(":")[2])

    def connections() -> set[int]:
        """Return the ports from which this process is connected."""
        found = psutil.Process().net_connections("tcp")
        return {one.laddr.port for one in found if one.raddr and one.raddr.port == port}

    others = connections()  # of earlier tests; they may end meanwhile
    for _ in range(3):
        asyncio.run(backend.store([outcome()]))
    assert connections() <= others

    async def closes() -> None:
        await backend.afetch(["x"])
        assert connections() - others
        backend.close()
        session = backend.server.session()
        assert session.closing is None
        await backend.afetch(["x"])  # a later call opens them again

    asyncio.run(closes())
    backend.close()
    assert connections() <= others


def test_a_url_opens_one_server_for_a_process(url: str) -> None:
    first, second = (connect(url, clock=Clock(), timeout=7.0, result_expires=None) for _ in range(2))
    assert first.server is second.server
    first.close()
