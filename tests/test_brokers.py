"""Every broker and every backend keeps the same promises. A new adapter is a new function below."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from celeriac.backends.amqp import RpcBackend
from celeriac.backends.amqp10 import Amqp10RpcBackend
from celeriac.backends.memory import MemoryBackend
from celeriac.backends.redis import RedisBackend
from celeriac.backends.sqlite import SQLiteBackend
from celeriac.backends.stomp import StompReplyBackend
from celeriac.backends.zmq import HubBackend
from celeriac.brokers.amqp import AmqpBroker
from celeriac.brokers.amqp10 import Amqp10Broker
from celeriac.brokers.memory import MemoryBroker
from celeriac.brokers.redis import RedisBroker
from celeriac.brokers.redis.envelope import blob
from celeriac.brokers.sqlite import SQLiteBroker
from celeriac.brokers.stomp import StompBroker
from celeriac.brokers.zmq import HubBroker
from celeriac.drivers.amqp.server import Server as AmqpServer
from celeriac.drivers.amqp10.server import Server as Amqp10Server
from celeriac.drivers.memory import Store
from celeriac.drivers.memory.delays import MemoryDelays, MemoryDelayStore
from celeriac.drivers.redis.server import Server
from celeriac.drivers.sqlite.database import Database
from celeriac.drivers.sqlite.schema import TABLES
from celeriac.drivers.stomp.server import Server as StompServer
from celeriac.drivers.zmq.server import Server as HubClient
from celeriac.model.codec import PLAIN_CODEC, Codec
from celeriac.model.message import Message
from celeriac.ports.schedules import ScheduleKeeper, ScheduleStore, schedule_store
from tests.activemq_server import STOMP_VARIABLE, StompClock, timed
from tests.activemq_server import die as stomp_worker_dies
from tests.activemq_server import elsewhere as stomp_elsewhere
from tests.amqp10_server import AMQP10_VARIABLE, Amqp10Clock, empty
from tests.amqp10_server import die as amqp10_die
from tests.clock import FakeClock
from tests.conformance.backend import BackendConformance, JoinedConformance, WorkflowConformance
from tests.conformance.broker import BrokerConformance, JunkConformance, Ports
from tests.conformance.schedules import PublishingConformance, SchedulesConformance
from tests.hub_server import HubServer
from tests.patience import PATIENCE
from tests.qpid_server import QPID_VARIABLE, pretend
from tests.qpid_server import empty as qpid_empty
from tests.rabbitmq_server import RabbitClock, RabbitServer, die
from tests.redis_server import RedisClock, RedisServer


@contextmanager
def memory(folder: Path, clock: FakeClock) -> Iterator[Ports]:
    store = Store()
    yield Ports(MemoryBroker(store, clock), MemoryBackend(store, clock), clock, lambda: MemoryBroker(store, clock))


@contextmanager
def sqlite(folder: Path, clock: FakeClock) -> Iterator[Ports]:
    path = str(folder / "celeriac.db")
    database, other = Database(path), Database(path)

    yield Ports(SQLiteBroker(database, clock), SQLiteBackend(database, clock), clock,
                lambda: SQLiteBroker(other, clock), spoil=spoiling(other))  # fmt: skip
    database.close()
    other.close()


def spoiling(database: Database) -> Callable[[Message, bytes], None]:
    """Return what puts junk in the place of messages in a file."""

    def spoil(message: Message, junk: bytes) -> None:
        def work(connection: sqlite3.Connection) -> None:
            for table in TABLES:
                connection.execute(
                    f"UPDATE {table} SET message = ? WHERE instr(message, CAST(? AS BLOB))", (junk, message.id)
                )

        database.write(work)

    return spoil


@contextmanager
def hub(process: HubServer, codec: Codec = PLAIN_CODEC) -> Iterator[Ports]:
    clock = process.emptied()
    assert clock is not None
    here, elsewhere = (HubClient(process.url, timeout=PATIENCE, codec=codec) for _ in range(2))
    file = Database(str(process.data))
    yield Ports(HubBroker(here, clock), HubBackend(here, clock), clock, lambda: HubBroker(elsewhere, clock),
                spoil=spoiling(file))  # fmt: skip
    here.close()
    elsewhere.close()
    file.close()


@contextmanager
def redis_(server: RedisServer) -> Iterator[Ports]:
    clock = RedisClock(server)
    here, elsewhere = (Server(server.url, timeout=PATIENCE) for _ in range(2))

    def spoil(message: Message, junk: bytes) -> None:
        key = f"{here.prefix}:{{{message.queue}}}:messages"
        server.ask("HSET", key, message.id, blob(message, PLAIN_CODEC)[:3] + junk)  # the scripts' letters stay

    yield Ports(RedisBroker(here, clock), RedisBackend(here, clock), clock, lambda: RedisBroker(elsewhere, clock),
                spoil=spoil)  # fmt: skip
    here.close()
    elsewhere.close()


@contextmanager
def amqp(rabbit: RabbitServer, kind: str) -> Iterator[Ports]:
    """`kind` is a type of queues; or "store" (or "qpid"): classic queues, and delays in a store."""
    vhost = rabbit.vhost()
    queue_type = "classic" if kind in ("store", "qpid") else kind
    with amqp_at(rabbit.url(vhost), queue_type, stored=queue_type != kind) as made:
        yield made
    rabbit.drop(vhost)


@contextmanager
def amqp_at(url: str, queue_type: str, stored: bool) -> Iterator[Ports]:
    here, elsewhere = (AmqpServer(url, queue_type=queue_type, timeout=PATIENCE) for _ in range(2))
    clock = RabbitClock(here)
    backend = RpcBackend(here, clock)
    kept = MemoryDelays()

    def broker(server: AmqpServer) -> AmqpBroker:
        made = AmqpBroker(server, clock)
        if stored:
            made.keep_delays_in(lambda: MemoryDelayStore(kept, clock), "store")
        return made

    yield Ports(broker(here), backend, clock, lambda: broker(elsewhere), die)
    backend.close()
    here.close()
    elsewhere.close()


@contextmanager
def stomp(url: str, schedules: bool = True) -> Iterator[Ports]:
    here, elsewhere = (StompServer(url, timeout=PATIENCE) for _ in range(2))
    clock = StompClock()

    def broker(server: StompServer) -> StompBroker:
        made = StompBroker(server, clock)
        return timed(made, clock) if schedules else made

    backend = StompReplyBackend(here, clock)
    yield Ports(broker(here), backend, clock, lambda: broker(elsewhere), stomp_worker_dies)
    backend.close()
    here.close()
    elsewhere.close()


@contextmanager
def amqp10(url: str, clock: FakeClock, stored: bool = False) -> Iterator[Ports]:
    """`stored`: what waits is kept in a store; the server holds no delayed messages, or its clock cannot be set."""
    here, elsewhere = (Amqp10Server(url, timeout=PATIENCE) for _ in range(2))
    backend = Amqp10RpcBackend(here, clock)
    kept = MemoryDelays()

    def broker(server: Amqp10Server) -> Amqp10Broker:
        made = Amqp10Broker(server, clock)
        made.keep_delays_in(lambda: MemoryDelayStore(kept, clock), "store" if stored else "auto")
        return made

    yield Ports(broker(here), backend, clock, lambda: broker(elsewhere), amqp10_die)
    backend.close()
    here.close()
    elsewhere.close()


COUNTING = {
    "test_many_threads_publish_at_once", "test_queues_are_counted_by_what_their_messages_wait_for",
    "test_what_waits_can_be_withdrawn_and_is_returned", "test_nobody_receives_from_a_paused_queue",
    "test_a_coroutine_is_completed_inside_a_loop",
}  # fmt: skip
"""Tests that count the messages of queues."""
DELAYING = {
    "test_a_message_is_not_received_before_it_is_due", "test_who_receives_wakes_when_a_message_becomes_due",
    "test_scheduled_messages_are_listed_soonest_first", "test_a_returned_message_comes_again_as_it_was_returned",
    "test_a_revoked_message_is_delivered_at_once_and_marked", "test_a_message_is_found_wherever_it_is",
    "test_purging_drops_what_waits_and_not_what_runs",
}  # fmt: skip
"""Tests that send messages which are due later."""
OF_THE_STORE = {
    "test_a_message_that_was_due_long_ago_is_received_at_once", "test_a_scheduled_message_is_run_now",
    "test_waiting_messages_are_moved_to_another_queue", "test_a_dead_letter_that_is_sent_again_is_as_if_new",
    "test_ending_a_lease_gives_its_messages_back_uncounted", "test_ending_a_lease_wakes_who_receives",
    "test_what_may_have_been_sent_before_says_so", "test_closing_is_not_the_end",
}  # fmt: skip
"""More tests in which a store of delayed messages, or who moves them from there, has a part."""
UNABLE = "by STOMP, this server counts no messages and keeps none until it is due: tests/test_stomp.py"

ADAPTERS: dict[str, Callable[[Path, FakeClock], AbstractContextManager[Ports]]] = {"memory": memory, "sqlite": sqlite}


BACKENDS = [*ADAPTERS, "redis", "hub", "amqp-quorum", "amqp-classic", "amqp10-rabbitmq", "amqp10-double",
            "stomp-activemq", pytest.param("stomp-rabbitmq", marks=pytest.mark.at_length),
            pytest.param("amqp-qpid", marks=pytest.mark.at_length)]  # fmt: skip
if AMQP10_VARIABLE in os.environ:
    BACKENDS.append("amqp10-elsewhere")
if QPID_VARIABLE in os.environ:
    BACKENDS.append("qpid-elsewhere")
if STOMP_VARIABLE in os.environ:
    BACKENDS.append("stomp-elsewhere")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give all brokers to the tests of a broker.

    Where what waits is kept in a store, all else goes as with other classic queues, and as by AMQP 1.0 with a store:
    that is tested at length.
    """
    if metafunc.cls is TestBroker:
        differs = metafunc.definition.originalname in DELAYING | COUNTING | OF_THE_STORE
        stored = pytest.param("amqp-store", marks=() if differs else pytest.mark.at_length)
        metafunc.parametrize("ports", [*BACKENDS, stored], indirect=True)


@pytest.fixture
def ports(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> Iterator[Ports]:
    if request.param == "redis":
        with redis_(request.getfixturevalue("redis")) as made:
            yield made
        return
    if request.param == "hub":
        with hub(request.getfixturevalue("hub_process")) as made:
            yield made
        return
    if request.param == "amqp10-elsewhere":
        url = os.environ[AMQP10_VARIABLE]
        empty(url)
        with amqp10(url, clock, stored=True) as made:
            yield made
        return
    if request.param == "amqp10-double":
        double = request.getfixturevalue("amqp10_double")
        with amqp10(double.url, Amqp10Clock(double)) as made:
            yield made
        return
    if request.param.startswith("amqp10"):
        with amqp10(request.getfixturevalue("amqp10_rabbit"), clock, stored=True) as made:
            yield made
        return
    if request.param == "qpid-elsewhere":
        url = os.environ[QPID_VARIABLE]
        qpid_empty(url)
        with amqp_at(url, "classic", stored=True) as made:
            yield made
        return
    if request.param == "amqp-qpid":
        if request.node.originalname == "test_higher_priorities_come_first_and_older_messages_first_among_equals":
            pytest.skip("RabbitMQ ignores Broker-J's argument for priorities")
        pretend(request.getfixturevalue("monkeypatch"))
    if request.param.startswith("amqp"):
        with amqp(request.getfixturevalue("rabbit"), request.param.removeprefix("amqp-")) as made:
            yield made
        return
    if request.param == "stomp-activemq":
        with stomp(request.getfixturevalue("activemq").url()) as made:
            yield made
        return
    fits = request.node.originalname not in COUNTING | DELAYING
    if request.param == "stomp-elsewhere":
        url, is_activemq = stomp_elsewhere()
        if not is_activemq and not fits:
            pytest.skip(UNABLE)
        with stomp(url, schedules=is_activemq) as made:
            yield made
        return
    if request.param == "stomp-rabbitmq":
        if not fits:
            pytest.skip(UNABLE)
        rabbit = request.getfixturevalue("rabbit")
        vhost = rabbit.vhost()
        with stomp(rabbit.stomp_url(vhost), schedules=False) as made:
            yield made
        rabbit.drop(vhost)
        return
    with ADAPTERS[request.param](tmp_path, clock) as made:
        yield made


class TestBroker(BrokerConformance):
    pass


@pytest.mark.parametrize("ports", ["sqlite", "redis", "hub"], indirect=True)
class TestJunk(JunkConformance):
    pass


REPLYING = [pytest.param(one, marks=pytest.mark.at_length) if one == "amqp-classic" else one for one in BACKENDS]
"""Without a second type of queues for replies, which makes no difference but in an argument."""


@pytest.mark.parametrize("ports", REPLYING, indirect=True)
class TestBackend(BackendConformance):
    pass


@pytest.mark.parametrize("ports", [*ADAPTERS, "redis", "hub"], indirect=True)
class TestWorkflows(WorkflowConformance, JoinedConformance):
    pass


@pytest.fixture
def schedules(ports: Ports) -> ScheduleStore:
    return schedule_store(ports.broker, ports.backend)


@pytest.mark.parametrize("ports", [*ADAPTERS, "redis", "hub"], indirect=True)
class TestSchedules(SchedulesConformance, PublishingConformance):
    pass


@pytest.mark.parametrize("ports", ["sqlite", "redis", "hub"], indirect=True)
class TestSchedulesBesideAnotherBroker(SchedulesConformance):
    @pytest.fixture
    def schedules(self, ports: Ports) -> ScheduleStore:
        assert isinstance(ports.backend, ScheduleKeeper)
        kept = ports.backend.schedules()
        assert not kept.publishes
        return kept
