"""Tests of Redis's own: lost connections; servers that restart, freeze, are full or not suitable; keys; queue lists.

`test_brokers.py` has the tests that all brokers and backends share.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hiredis
import pytest

from celeriac import Celeriac
from celeriac.app.connections import open_broker
from celeriac.backends.redis import RedisBackend
from celeriac.brokers.redis import RedisBroker, requests
from celeriac.drivers.redis.address import Address
from celeriac.drivers.redis.calls import Call, Step
from celeriac.drivers.redis.connection import Connection
from celeriac.drivers.redis.error_translation import InDoubt, silent
from celeriac.drivers.redis.outcomes import channel_of
from celeriac.drivers.redis.pubsub import OPEN_SECONDS, Subscriber
from celeriac.drivers.redis.server import Server
from celeriac.drivers.redis.wire import Wire
from celeriac.errors import (
    BrokerError,
    BrokerMisconfigured,
    BrokerUnavailable,
    ImproperlyConfigured,
    LeaseLost,
)
from celeriac.model.clock import Clock
from celeriac.model.message import COROUTINE, PLAIN, Message, Place, new_ids
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import MISSED, Action, Delivery, Lease, Settlement
from celeriac.ports.operations import WorkerInfo
from celeriac.ports.workflows import Advance, NodeEnd, PendingNode, Plan
from celeriac.worker.decide import decide
from tests.conformance.broker import LONG, PROMPTLY, BrokerConformance, Ports, ids, message, success
from tests.endings import returned
from tests.patience import PATIENCE, eventually, in_time, wait_for
from tests.redis_server import RedisServer, running_redis
from tests.test_brokers import redis_ as redis_ports

TIMEOUT = 2.0  # seconds; more than a server needs that answers
WAITERS = "celeriac:{default}:waiters:p"  # the set of those who wait for plain tasks


def broker_on(redis: RedisServer, timeout: float = PATIENCE, result_expires: float | None = 60.0) -> RedisBroker:
    return RedisBroker(Server(redis.url, timeout=timeout), Clock(), result_expires)


def backend_of(broker: RedisBroker) -> RedisBackend:
    return RedisBackend(broker.server, broker.clock, broker.result_expires)


@pytest.fixture
def broker(redis: RedisServer) -> Iterator[RedisBroker]:
    made = broker_on(redis)
    yield made
    made.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


def waiting_leases(redis: RedisServer) -> int:
    """Return how many leases wait for plain messages; marks of queue lists ("+…") are not counted."""
    return sum(
        not member.startswith(b"+") for key in redis.ask("KEYS", "*waiters:*p") for member in redis.ask("SMEMBERS", key)
    )


@pytest.fixture(params=[requests.MOST_NAMED, 0], ids=["named queues", "a queue list"])
def most_named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests name their queues, or name a queue list."""
    monkeypatch.setattr(requests, "MOST_NAMED", request.param)


async def lease_on(broker: RedisBroker, seconds: float = 60.0) -> Lease:
    return await broker.lease(WorkerInfo(name="w"), seconds, 3)


async def receive(lease: Lease, limit: int = 10, wait: float = 0.0) -> list[Delivery]:
    return await lease.receive(["default"], {PLAIN: limit}, wait)


def keys(redis: RedisServer) -> list[str]:
    return sorted(key.decode() for key in redis.ask("KEYS", "*"))


# --- Addresses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {}),
        ("redis://db:7000/3", {"host": "db", "port": 7000, "db": 3}),
        ("redis://:p%40ss@db", {"host": "db", "password": "p@ss"}),
        ("rediss://u:p@db?ssl_cert_reqs=none",
         {"host": "db", "username": "u", "password": "p", "tls": True, "options": {"ssl_cert_reqs": "none"}}),
        ("unix:///run/r.sock?db=2", {"path": "/run/r.sock", "db": 2, "options": {"db": "2"}}),
        ("redis+sentinel://:p@a,b:7/main/2",
         {"sentinels": (("a", 26379), ("b", 7)), "service": "main", "db": 2, "password": "p"}),
    ],
)  # fmt: skip
def test_urls_are_parsed(url: str, expected: dict[str, Any]) -> None:
    assert Address.of(url) == Address(**expected)


@pytest.mark.parametrize("url", ["redis://db/x", "redis://db:x", "redis://db?sockettimeout=3", "unix://",
                                 "redis+sentinel://a"])
def test_invalid_urls_are_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured):
        Address.of(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [("redis://db/abc", "database 'abc' is not a number"), ("redis+sentinel://a:x/main", "port 'x' is not a number"),
     ("redis+sentinel://a/main/x", "database 'x' is not a number")],
)  # fmt: skip
def test_the_error_names_the_part_of_a_url_that_is_not_a_number(url: str, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        Address.of(url)


@pytest.mark.parametrize(
    ("url", "command"),
    [("redis://db:7/2", "redis-cli -h db -p 7 ping"), ("rediss://db", "redis-cli -h db -p 6379 --tls ping"),
     ("unix:///run/r.sock", "redis-cli -s /run/r.sock ping"),
     ("redis+sentinel://a,b:7/main", "redis-cli -h a -p 26379 ping")],
)  # fmt: skip
def test_the_error_for_an_unreachable_server_has_the_command_that_pings_it(url: str, command: str) -> None:
    assert f"`{command}`" in str(silent(OSError("refused"), Address.of(url), 1.0))


def test_tls_verifies_the_certificate_of_the_server_by_default() -> None:
    strict, lax = (Address.of(url).tls_context() for url in ("rediss://db", "rediss://db?ssl_cert_reqs=none"))
    assert strict is not None
    assert lax is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)


async def test_a_unix_socket_and_another_prefix_can_be_used(redis: RedisServer) -> None:
    app = Celeriac("u", environ={}, broker_url=f"unix://{redis.folder}/s?db=1", redis_prefix="shop")
    broker = open_broker(app.broker_url, app.conf, app.clock)
    broker.publish([message()])
    await broker.apublish([message()])
    assert len(await receive(await broker.lease(WorkerInfo(name="w"), 60.0, 3))) == 2
    assert redis.ask("DBSIZE") == 0  # the size of database 0
    broker.close()


# --- What is sent again: the procedure of a call, without a server -------------------------------------


def call_of(count: int = 1, again: bool = True) -> Call:
    return Call(b"", count, again, Address(), TIMEOUT)


def test_scripts_are_loaded_when_the_server_has_none_and_the_call_is_sent_again() -> None:
    steps = call_of().steps([hiredis.ReplyError("NOSCRIPT No matching script")])
    assert next(steps) is Step.LOAD
    assert steps.send([b"sha"]) is Step.SEND
    with pytest.raises(StopIteration) as end:
        steps.send([7])
    assert end.value.value == [7]


def test_a_call_is_sent_once_more_after_a_lost_connection_and_not_a_third_time() -> None:
    call = call_of()
    steps = call.steps(ConnectionResetError("lost"))
    assert next(steps) is Step.FORGET
    assert steps.send(None) is Step.SEND
    call.connected = call.fresh = True
    assert steps.throw(ConnectionResetError("lost")) is Step.FORGET
    with pytest.raises(InDoubt):
        steps.send(None)


def test_a_call_that_must_not_be_sent_again_is_in_doubt_after_a_lost_connection() -> None:
    steps = call_of(again=False).steps(ConnectionResetError("lost"))
    assert next(steps) is Step.FORGET
    with pytest.raises(InDoubt):
        steps.send(None)
    with pytest.raises(InDoubt):  # the first command was carried out
        next(call_of(2, again=False).steps([1, hiredis.ReplyError("NOSCRIPT No matching script")]))


def test_a_call_that_could_not_be_sent_is_not_in_doubt() -> None:
    steps = call_of(again=False).steps(None)
    assert next(steps) is Step.SEND
    with pytest.raises(BrokerUnavailable) as caught:
        steps.throw(ConnectionRefusedError("refused"))
    assert not isinstance(caught.value, InDoubt)


def test_a_busy_server_is_asked_again_and_a_connection_to_a_replica_is_closed() -> None:
    steps = call_of().steps([hiredis.ReplyError("LOADING the dataset")])
    assert next(steps) is Step.PAUSE
    assert steps.send(None) is Step.SEND
    assert steps.send([hiredis.ReplyError("READONLY You can't write against a read only replica.")]) is Step.CLOSE
    with pytest.raises(BrokerUnavailable, match="Name the master"):
        steps.send(None)


# --- Connections --------------------------------------------------------------------------------------


async def test_scripts_are_loaded_again_after_script_flush(redis: RedisServer, broker: RedisBroker) -> None:
    broker.publish([message()])
    redis.ask("SCRIPT", "FLUSH")
    broker.publish([message()])
    redis.ask("SCRIPT", "FLUSH")
    await broker.apublish([message(), message("other")])
    lease = await lease_on(broker)
    redis.ask("SCRIPT", "FLUSH")
    assert len(await receive(lease)) == 3


async def test_killed_connections_are_replaced(redis: RedisServer, broker: RedisBroker) -> None:
    lease = await lease_on(broker)
    for _ in range(3):
        broker.publish([message()])
        redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        broker.publish([message()])
        await broker.apublish([message()])
        redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await broker.apublish([message()])
    assert len(await receive(lease, 100)) == 12


async def test_a_waiting_coroutine_is_woken_although_all_connections_were_killed(
    redis: RedisServer, broker: RedisBroker
) -> None:
    waiting = asyncio.ensure_future(receive(await lease_on(broker), wait=LONG))
    result = asyncio.ensure_future(backend_of(broker).afetch(["x"], wait=LONG))
    news = await broker.listen("news")
    await eventually(lambda: redis.ask("SCARD", WAITERS) and len(redis.ask("PUBSUB", "CHANNELS")) >= 3, "all three")
    redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
    redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    sent = message(id="x")
    broker.publish([sent])
    async with asyncio.timeout(PROMPTLY):
        assert ids(await waiting) == ["x"]
        await backend_of(broker).store([success(sent)])
        assert list(await result) == ["x"]
        heard = asyncio.ensure_future(anext(news))
        while not heard.done():
            await broker.broadcast("news", [b"1"])
            await asyncio.wait([heard], timeout=0.1)
        assert heard.result() is MISSED
        await broker.broadcast("news", [b"1"])
        assert await anext(news) == b"1"


def test_a_waiting_thread_is_woken_although_its_connection_was_killed(redis: RedisServer, broker: RedisBroker) -> None:
    backend = backend_of(broker)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(backend.fetch(["x"], wait=LONG)))
    thread.start()
    wait_for(lambda: redis.ask("PUBSUB", "CHANNELS"), "the subscription")
    redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
    asyncio.run(backend.store([success(message(id="x"))]))
    thread.join(PROMPTLY)
    assert [list(item) for item in found] == [["x"]]


async def test_a_listener_that_starts_while_another_connects_receives_each_payload_once(
    redis: RedisServer, broker: RedisBroker
) -> None:
    heard: list[bytes | None] = []
    connecting = asyncio.ensure_future(broker.server.hear("a", heard.append))
    await asyncio.sleep(0)
    await broker.server.hear("b", heard.append)
    await connecting
    assert redis.ask("PUBSUB", "NUMSUB", "a", "b") == [b"a", 1, b"b", 1]
    for channel in ("a", "b"):
        redis.ask("PUBLISH", channel, channel)
    await eventually(lambda: len(heard) >= 2, "both messages")
    assert heard == [b"a", b"b"]


async def test_a_connection_that_is_lost_before_it_subscribes_is_replaced(broker: RedisBroker) -> None:
    cut, callback = [True, True], [].append

    def connect(within: float) -> Connection:
        connection = broker.server.connect_pubsub(within)
        if cut and cut.pop():
            connection.socket.socket.shutdown(socket.SHUT_RDWR)
        return connection

    subscriber = Subscriber(connect, TIMEOUT)
    for _ in range(2):
        with pytest.raises(OSError):
            await subscriber.join("a", callback)
    await subscriber.join("a", callback)
    await subscriber.join("b", callback)
    subscriber.close()


async def test_the_end_of_a_task_with_an_unusual_id_is_published(broker: RedisBroker) -> None:
    backend = backend_of(broker)
    strange = ["a\0b", "1\0" * 9, "\0", "ü🐇"]
    channels = {channel_of(id) for id in strange}
    usual = next(id for id in new_ids(10_000) if channel_of(id) == channel_of(strange[0]))
    thread = asyncio.to_thread(backend.fetch, [usual], LONG)
    waits = [asyncio.ensure_future(wait) for wait in (thread, backend.afetch([usual], wait=LONG))]
    waits += [asyncio.ensure_future(backend.afetch([id], wait=LONG)) for id in strange]
    question = ("PUBSUB", "NUMSUB", *[f"celeriac:done:{channel}" for channel in channels])
    await eventually(lambda: sum(broker.server.do(question)[1::2]) > len(channels), "both ways of listening")
    async with asyncio.timeout(PROMPTLY):
        await backend.store([Outcome(id=id, task="t", state="SUCCESS") for id in [*strange, usual]])
        assert [list(await wait) for wait in waits] == [[usual], [usual], *([id] for id in strange)]


def gathered(backend: RedisBackend, waits_for: Sequence[str]) -> None:
    """Wait for all of these tasks, as a group does, in a thread."""
    left = dict.fromkeys(waits_for)
    while left:
        for id in backend.fetch(list(left), wait=LONG):
            del left[id]


async def agathered(backend: RedisBackend, waits_for: Sequence[str]) -> None:
    """Coroutine version of `gathered`."""
    left = dict.fromkeys(waits_for)
    while left:
        for id in await backend.afetch(list(left), wait=LONG):
            del left[id]


@pytest.mark.parametrize("way", [gathered, lambda backend, these: asyncio.run(agathered(backend, these))],
                         ids=["get", "aget"])  # fmt: skip
def test_waiting_for_many_tasks_does_not_fetch_all_others_whenever_one_ends(
    redis: RedisServer, broker: RedisBroker, way: Callable[[RedisBackend, Sequence[str]], None]
) -> None:
    backend, many = backend_of(broker), new_ids(1000)
    thread = threading.Thread(target=way, args=(backend, many))
    redis.ask("CONFIG", "RESETSTAT")
    begun = time.monotonic()
    thread.start()
    for id in many:
        asyncio.run(backend.store([Outcome(id=id, task="t", state="SUCCESS")]))
    thread.join(PROMPTLY)
    assert not thread.is_alive()
    took = time.monotonic() - begun
    stats = dict(line.split(":") for line in redis.ask("INFO", "stats").decode().splitlines() if ":" in line)
    asked = int(stats["keyspace_misses"]) / len(many)
    print(f"each key was asked for {asked:.0f} times before it was there")
    assert asked < 15 + took / 0.1  # for a tenth of a second it gathers what has ended


@pytest.mark.parametrize("begun", [False, True], ids=["before", "after it has waited"])
def test_a_fetch_from_a_frozen_server_takes_one_timeout(redis: RedisServer, begun: bool) -> None:
    for _ in range(3):
        broker = broker_on(redis, timeout=8.0)
        backend = backend_of(broker)
        if begun:
            assert backend.fetch(["x"], wait=0.01) == {}
        redis.send(signal.SIGSTOP)
        started = time.monotonic()
        try:
            with pytest.raises(BrokerUnavailable, match="did not answer within 8 s"):
                backend.fetch(["x"], wait=0.2)
        finally:
            redis.send(signal.SIGCONT)
        took = time.monotonic() - started
        broker.close()
        if took < 16:  # and not for two; this process may have stood still
            return
    pytest.fail(f"it took {took:.1f} s in the last of three tries")


async def test_a_receive_that_is_cancelled_after_sending_takes_no_messages(
    redis: RedisServer, broker: RedisBroker
) -> None:
    lease, other = await lease_on(broker), await lease_on(broker)
    sent = [message() for _ in range(5)]
    for _ in range(5):
        broker.publish(sent)
        receiving = asyncio.ensure_future(receive(lease))
        await asyncio.sleep(0)  # sends the request
        receiving.cancel()
        with suppress(asyncio.CancelledError):
            await receiving
        got: list[Delivery] = []
        async with asyncio.timeout(PROMPTLY):
            while len(got) < 5:
                got += await receive(other, wait=1.0)
        assert (ids(got), {delivery.deliveries for delivery in got}) == (ids(sent), {1})
        assert await other.settle([Settlement(delivery=delivery) for delivery in got]) == [True] * 5


async def test_a_settlement_that_is_repeated_after_its_reply_was_lost_succeeds(
    redis: RedisServer, broker: RedisBroker
) -> None:
    lease, other = await lease_on(broker), await lease_on(broker)
    broker.publish([message(), message()])
    mine, refused = await receive(lease)
    settling = asyncio.ensure_future(lease.settle([Settlement(delivery=mine)]))
    await asyncio.sleep(0)  # sends it
    settling.cancel()
    with suppress(asyncio.CancelledError):
        await settling
    assert await lease.settle([Settlement(delivery=mine)]) == [True]
    assert await lease.settle([Settlement(delivery=mine)]) == [False]
    assert await other.settle([Settlement(delivery=refused)]) == [False]


async def test_a_cancelled_request_that_arrives_late_delivers_nothing(redis: RedisServer) -> None:
    broker = broker_on(redis, TIMEOUT)
    lease = await lease_on(broker)
    broker.publish([message()])
    redis.send(signal.SIGSTOP)
    try:
        for _ in range(3):
            with pytest.raises(BrokerUnavailable):
                await receive(lease)
    finally:
        redis.send(signal.SIGCONT)
    got: list[Delivery] = []
    async with asyncio.timeout(PROMPTLY):
        while not got:
            with suppress(BrokerUnavailable):  # a busy server is still at the requests of before
                got = await receive(lease, wait=1.0)
    assert await lease.settle([Settlement(delivery=got[0])]) == [True]
    assert redis.ask("KEYS", "*:held:*") == []
    await lease.end()
    broker.close()


@pytest.mark.usefixtures("most_named")
async def test_one_waiting_worker_is_woken_for_each_message(redis: RedisServer, broker: RedisBroker) -> None:
    leases = [await lease_on(broker) for _ in range(10)]
    waits = [asyncio.ensure_future(receive(lease, 1, wait=LONG)) for lease in leases]
    await eventually(lambda: waiting_leases(redis) == 10, "ten waiting leases")
    broker.publish([message() for _ in range(3)])
    await eventually(lambda: sum(wait.done() for wait in waits) >= 3, "the end of three waits")
    assert waiting_leases(redis) == 7
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
    for lease in leases:
        await lease.end()
    assert waiting_leases(redis) == 0


# --- Many queues: queue lists and the indexes P:ready and P:soonest -------------------------------------


@pytest.mark.usefixtures("queue_lists")
class TestBrokerWithQueueLists(BrokerConformance):
    @pytest.fixture
    def queue_lists(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(requests, "MOST_NAMED", 0)

    @pytest.fixture
    def ports(self, redis: RedisServer) -> Iterator[Ports]:
        with redis_ports(redis) as made:
            yield made


def names(count: int, first: int = 0) -> list[str]:
    return [f"queue-{number}" for number in range(first, first + count)]


def calls(redis: RedisServer) -> int:
    """Return how many commands were carried out since the last call, those in scripts included."""
    stats = redis.ask("INFO", "commandstats").decode()
    redis.ask("CONFIG", "RESETSTAT")
    return sum(int(part) for part in re.findall(r"calls=(\d+)", stats))


async def test_every_queue_has_its_turn_among_many_that_have_messages(broker: RedisBroker) -> None:
    queues = names(100)
    broker.publish([message(queue) for _ in range(3) for queue in queues])
    lease = await lease_on(broker)
    for _ in range(3):
        got = [(await lease.receive(queues, {PLAIN: 1}, 0))[0].message.queue for _ in queues]
        assert sorted(got) == sorted(queues)
    assert await lease.receive(queues, {PLAIN: 1}, 0) == []


async def test_many_queues_are_served_by_priority_and_age_within_each(broker: RedisBroker) -> None:
    queues = names(70)
    sent = [message(queue, priority=priority) for queue in queues for priority in (1, 9, 5, 9)]
    broker.publish(sent)
    got = await (await lease_on(broker)).receive(queues, {PLAIN: 1000}, 0)
    assert len(got) == len(sent)
    for at in range(len(queues)):
        first, second, third, fourth = sent[4 * at : 4 * at + 4]
        mine = [item.message.id for item in got if item.message.queue == queues[at]]
        assert mine == [second.id, fourth.id, third.id, first.id]


async def test_receiving_carries_out_as_many_commands_from_many_empty_queues_as_from_few(
    redis: RedisServer, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.brokers.redis.lease.LEAVE_SECONDS", LONG)

    async def cost(count: int) -> list[int]:
        queues, lease, found = names(count), await lease_on(broker), []
        broker.publish([message(queues[-1], due_at=time.time() + LONG)])
        await lease.receive(queues, {PLAIN: 1, COROUTINE: 1}, 0)  # registers the list
        for wait in (0.0, 0.0, 0.01, 0.01):
            for sent in ([], [message(queues[count // 2])]):
                calls(redis)
                broker.publish(sent)
                got = await lease.receive(queues, {PLAIN: 1, COROUTINE: 1}, wait)
                await lease.settle([Settlement(delivery=delivery) for delivery in got])
                assert len(got) == len(sent)
                await broker.server.ado(("PING",))  # its reply comes after all posted commands are carried out
                found.append(calls(redis))
        await lease.end()
        return found

    await cost(10)  # connects
    assert await cost(20) == await cost(1000)


async def test_workers_of_many_different_queues_are_woken_for_their_own(
    redis: RedisServer, broker: RedisBroker
) -> None:
    left, right = await lease_on(broker), await lease_on(broker)
    for queue, theirs in (("queue-25", right), ("queue-5", left), ("queue-25", right)):
        receiving = {}
        for lease, queues in ((left, names(20)), (right, names(20, first=15))):
            before = waiting_leases(redis)
            receiving[lease] = asyncio.ensure_future(lease.receive(queues, {PLAIN: 1}, LONG))
            await eventually(lambda before=before: waiting_leases(redis) != before, "another that waits")
        broker.publish([message(queue)])
        assert len(await promptly(receiving.pop(theirs))) == 1
        (other,) = receiving.values()
        assert not other.done()
        other.cancel()
        await asyncio.wait([other])


@pytest.mark.parametrize("queues", [names(20, first=15), ["queue-15"]], ids=["a list too", "named"])
async def test_a_worker_without_slots_wakes_another_for_what_it_was_woken_for(
    redis: RedisServer, broker: RedisBroker, queues: list[str]
) -> None:
    first, second = await lease_on(broker), await lease_on(broker)
    held = [asyncio.ensure_future(first.receive(names(20), {PLAIN: 1}, LONG))]
    await eventually(lambda: waiting_leases(redis), "a worker that waits")
    sent = [message("queue-15") for _ in range(2)]
    broker.publish(sent)  # wakes the first, which has one slot
    held.append(asyncio.ensure_future(second.receive(queues, {PLAIN: 1}, LONG)))
    assert ids(await promptly(held[0]) + await promptly(held[1])) == ids(sent)


async def test_a_message_in_one_of_many_queues_becomes_ready_on_time_while_a_worker_waits(broker: RedisBroker) -> None:
    lease, queues = await lease_on(broker), names(30)
    receiving = asyncio.ensure_future(lease.receive(queues, {PLAIN: 1}, LONG))
    await asyncio.sleep(0.05)  # lets it wait
    due_at = time.time() + 0.3
    broker.publish([message("queue-17", due_at=due_at)])
    assert len(await promptly(receiving)) == 1
    assert due_at <= time.time()
    assert in_time(time.time() - due_at, 1)


async def test_a_paused_queue_among_many_is_passed_over_until_it_is_resumed(broker: RedisBroker) -> None:
    lease, queues = await lease_on(broker), names(30)
    broker.publish([message("queue-3"), message("queue-4")])
    await broker.operations().pause("queue-3")
    assert [item.message.queue for item in await lease.receive(queues, {PLAIN: 5}, 0)] == ["queue-4"]
    receiving = asyncio.ensure_future(lease.receive(queues, {PLAIN: 5}, LONG))
    await asyncio.sleep(0.05)  # lets it receive, if it would
    assert not receiving.done()
    await broker.operations().resume("queue-3")
    assert [item.message.queue for item in await promptly(receiving)] == ["queue-3"]


async def test_messages_that_an_older_version_published_are_received_from_many_queues(
    redis: RedisServer, broker: RedisBroker
) -> None:
    broker.publish([message("queue-3"), message("queue-4", due_at=time.time() + 0.05)])
    redis.ask("DEL", "celeriac:ready:p", "celeriac:soonest")  # which older versions do not write
    lease = await lease_on(broker)
    found = await lease.receive(names(30), {PLAIN: 5}, 0)
    assert "queue-3" in [delivery.message.queue for delivery in found]
    if len(found) < 2:  # the other one is due now, or soon
        found += await lease.receive(names(30), {PLAIN: 5}, PROMPTLY)
    assert sorted(delivery.message.queue for delivery in found) == ["queue-3", "queue-4"]


# --- Settlements that carry a request for messages ------------------------------------------------------


async def waiting(
    redis: RedisServer, lease: Lease, limit: int = 10, queue: str = "default"
) -> asyncio.Task[list[Delivery]]:
    """Begin to receive; return when the lease waits on the server, and knows it."""
    before = waiting_leases(redis)
    receiving = asyncio.ensure_future(lease.receive([queue], {PLAIN: limit}, LONG))
    await eventually(lambda: waiting_leases(redis) != before, "another waiting lease")
    await lease.renew()  # its reply comes after that to `receive`, on the same connection
    return receiving


async def promptly(receiving: asyncio.Task[list[Delivery]]) -> list[Delivery]:
    async with asyncio.timeout(PROMPTLY):
        return await receiving


async def held_by(lease: Lease, broker: RedisBroker) -> Delivery:
    broker.publish([message()])
    (delivery,) = await receive(lease, 1)
    return delivery


@pytest.mark.usefixtures("most_named")
async def test_a_settlement_brings_its_follow_up_to_the_waiting_receive_and_wakes_no_other_worker(
    redis: RedisServer, broker: RedisBroker
) -> None:
    lease, other = await lease_on(broker), await lease_on(broker)
    held, follow_up = await held_by(lease, broker), message()
    theirs, mine = await waiting(redis, other), await waiting(redis, lease)
    redis.ask("CONFIG", "RESETSTAT")
    assert await lease.settle([Settlement(delivery=held, follow_ups=[follow_up])]) == [True]
    (got,) = await promptly(mine)
    assert (got.message, got.deliveries) == (follow_up, 1)
    stats = redis.ask("INFO", "commandstats")
    assert b"cmdstat_evalsha:calls=1," in stats
    assert b"cmdstat_publish" not in stats  # no worker was woken
    theirs.cancel()


@pytest.mark.usefixtures("most_named")
async def test_follow_ups_for_which_the_waiting_receive_has_no_slots_go_to_other_workers(
    redis: RedisServer, broker: RedisBroker
) -> None:
    lease, other = await lease_on(broker), await lease_on(broker)
    held, follow_ups = await held_by(lease, broker), [message() for _ in range(5)]
    theirs, mine = await waiting(redis, other), await waiting(redis, lease, 2)
    await lease.settle([Settlement(delivery=held, follow_ups=follow_ups)])
    assert ids(await promptly(mine) + await promptly(theirs)) == ids(follow_ups)


@pytest.mark.usefixtures("most_named")
async def test_a_follow_up_in_another_queue_wakes_a_worker_that_waits_there(
    redis: RedisServer, broker: RedisBroker
) -> None:
    lease, other = await lease_on(broker), await lease_on(broker)
    held, follow_up = await held_by(lease, broker), message("mail")
    theirs, mine = await waiting(redis, other, queue="mail"), await waiting(redis, lease)
    await lease.settle([Settlement(delivery=held, follow_ups=[follow_up])])
    assert ids(await promptly(theirs)) == [follow_up.id]
    assert not mine.done()
    mine.cancel()


@pytest.mark.usefixtures("most_named")
async def test_a_settlement_brings_no_follow_up_from_a_paused_queue(redis: RedisServer, broker: RedisBroker) -> None:
    lease = await lease_on(broker)
    held, follow_up = await held_by(lease, broker), message()
    mine = await waiting(redis, lease)
    await broker.operations().pause("default")
    await lease.settle([Settlement(delivery=held, follow_ups=[follow_up])])
    assert not mine.done()
    await broker.operations().resume("default")
    assert ids(await promptly(mine)) == [follow_up.id]


@pytest.mark.usefixtures("most_named")
@pytest.mark.parametrize("sooner", [0, 1, 2, 3], ids="{} steps later".format)
async def test_a_follow_up_for_a_cancelled_receive_goes_to_another_worker(
    redis: RedisServer, broker: RedisBroker, sooner: int
) -> None:
    lease, other = await lease_on(broker), await lease_on(broker)
    held, follow_up = await held_by(lease, broker), message()
    mine = await waiting(redis, lease)
    settling = asyncio.ensure_future(lease.settle([Settlement(delivery=held, follow_ups=[follow_up])]))
    for _ in range(sooner):
        await asyncio.sleep(0)
    mine.cancel()
    assert await settling == [True]
    await asyncio.wait([mine])
    got = [] if mine.cancelled() else mine.result()
    (found,) = got or await promptly(asyncio.ensure_future(receive(other, wait=LONG)))
    assert (found.message.id, found.deliveries) == (follow_up.id, 1)
    assert await (lease if got else other).settle([Settlement(delivery=found)]) == [True]
    assert redis.ask("KEYS", "*:held:*") == []


@pytest.mark.usefixtures("most_named")
async def test_a_follow_up_in_a_lost_reply_is_received_later(
    redis: RedisServer, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await lease_on(broker)
    held, follow_up = await held_by(lease, broker), message()
    mine = await waiting(redis, lease)
    Accident(monkeypatch, lambda: None)
    settlement = Settlement(delivery=held, follow_ups=[follow_up])
    with pytest.raises(BrokerError):
        await lease.settle([settlement])
    assert await lease.settle([settlement]) == [True]
    (got,) = await promptly(mine)
    assert (got.message.id, got.deliveries) == (follow_up.id, 1)
    assert await lease.settle([Settlement(delivery=got)]) == [True]
    assert redis.ask("HLEN", "celeriac:{default}:messages") == 0


def test_a_forked_child_has_its_own_connections(redis: RedisServer, broker: RedisBroker) -> None:
    broker.publish([message()])
    children = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            with suppress(BaseException):
                for _ in range(100):
                    broker.publish([message()])
                code = 0
            os._exit(code)
        children.append(pid)
    for _ in range(100):
        broker.publish([message()])
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    assert redis.ask("HLEN", "celeriac:{default}:messages") == 301


class Accident:
    """Loses the reply to a script, the first or a later one, after something has happened on the server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any], after: int = 0) -> None:
        exchange, aexchange = Connection.exchange, Wire.exchange
        self.after = after

        def lossy(connection: Connection, packed: bytes, count: int) -> list[Any]:
            replies = exchange(connection, packed, count)
            if self._strikes(packed):
                happens()
                raise ConnectionResetError("lost")
            return replies

        async def alossy(wire: Wire, packed: bytes, count: int) -> list[Any]:
            replies = await aexchange(wire, packed, count)
            if self._strikes(packed):
                await asyncio.to_thread(happens)
                wire.close()
                raise ConnectionResetError("lost")
            return replies

        monkeypatch.setattr(Connection, "exchange", lossy)
        monkeypatch.setattr(Wire, "exchange", alossy)

    def _strikes(self, packed: bytes) -> bool:
        if b"EVALSHA" not in packed:
            return False
        self.after -= 1
        return self.after == -1


@pytest.mark.parametrize("kept", [True, False], ids=["results kept", "results ignored"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("way", [lambda broker, messages: broker.publish(messages),
                                 lambda broker, messages: asyncio.run(broker.apublish(messages))],
                         ids=["publish", "apublish"])  # fmt: skip
def test_a_message_that_ended_before_its_lost_publish_was_repeated_is_not_stored_again(
    redis: RedisServer, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch, kept: bool, count: int, way: Any
) -> None:
    other = broker_on(redis)

    async def work() -> None:
        lease = await lease_on(other)
        for delivery in await receive(lease):
            outcome = success(delivery.message) if kept else None
            assert await lease.settle([Settlement(delivery=delivery, outcome=outcome)]) == [True]
        await lease.end()

    other.publish([message()])
    asyncio.run(work())  # loads the scripts
    accident = Accident(monkeypatch, lambda: asyncio.run(work()))
    sent = [message() for _ in range(count)]
    way(broker, sent)
    assert accident.after < 0
    assert redis.ask("HLEN", "celeriac:{default}:messages") == 0
    if kept:
        assert len(backend_of(broker).fetch([one.id for one in sent])) == count
    other.close()


@pytest.mark.parametrize("count", [1, 3])
async def test_a_follow_up_that_has_ended_is_not_stored_again_after_its_sender_died(
    redis: RedisServer, broker: RedisBroker, count: int
) -> None:
    lease, follow_ups = await lease_on(broker), [message() for _ in range(count)]
    await broker.apublish(follow_ups)
    held = await receive(lease)
    await lease.settle([Settlement(delivery=delivery) for delivery in held])  # stores no outcomes
    await broker.apublish(follow_ups, again=True)
    assert redis.ask("HLEN", "celeriac:{default}:messages") == 0
    await broker.apublish([fresh := message()], again=True)
    assert ids(await receive(lease)) == [fresh.id]


def test_a_message_that_was_not_stored_when_the_connection_was_lost_is_sent_again(
    redis: RedisServer, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish([message()])
    accident = Accident(monkeypatch, lambda: redis.ask("FLUSHALL"))
    broker.publish([message(id="x")])
    assert accident.after < 0
    assert redis.ask("HKEYS", "celeriac:{default}:messages") == [b"x"]


async def test_many_settlements_are_repeated_successfully_after_one_reply_was_lost(
    redis: RedisServer, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await lease_on(broker)
    broker.publish([message() for _ in range(1200)])
    settlements = [Settlement(delivery=delivery) for delivery in await receive(lease, 1200)]
    accident = Accident(monkeypatch, lambda: None, after=1)  # the second script of three
    with pytest.raises(BrokerUnavailable):
        await lease.settle(settlements)
    assert accident.after < 0
    assert await lease.settle(settlements) == [True] * 1200
    assert await lease.settle(settlements) == [False] * 1200


async def test_what_a_sweep_took_over_is_given_by_the_next_if_a_later_reply_of_it_was_lost(
    broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.brokers.redis.lease.SWEEP_BATCH", 1)
    dead, heir = await lease_on(broker, seconds=0.0), await lease_on(broker)
    broker.publish(sent := [message(acks_late=False) for _ in range(3)])
    assert len(await receive(dead)) == 3
    accident = Accident(monkeypatch, lambda: None, after=1)
    with pytest.raises(BrokerUnavailable):
        await heir.sweep()
    assert accident.after < 0
    assert sorted(ids(await heir.sweep())) == sorted(ids(sent))
    assert await heir.sweep() == []


async def test_a_sweep_that_is_refused_because_of_a_fence_is_not_the_one_that_looks_for_what_is_in_doubt(
    redis: RedisServer, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, heir = await lease_on(broker, seconds=0.0), await lease_on(broker)
    broker.publish([sent := message(acks_late=False)])
    assert len(await receive(dead)) == 1
    Accident(monkeypatch, lambda: None)
    with pytest.raises(BrokerUnavailable):
        await heir.sweep()
    redis.ask("HSET", "celeriac:fences", heir.name, 1_000_000)  # as a later request would that overtook the next
    assert await heir.sweep() == []
    redis.ask("HSET", "celeriac:fences", heir.name, 0)
    assert ids(await heir.sweep()) == [sent.id]


# --- Servers that are down ----------------------------------------------------------------------------


def test_calls_fail_promptly_while_the_server_is_down(own_redis: RedisServer) -> None:
    broker = broker_on(own_redis, TIMEOUT)
    broker.publish([message()])
    own_redis.kill()
    for _ in range(3):
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="cannot be reached"):
            broker.publish([message()])
        with pytest.raises(BrokerUnavailable):
            asyncio.run(broker.apublish([message()]))
        assert in_time(time.monotonic() - started, TIMEOUT)
    own_redis.start()
    broker.publish([message()])
    assert own_redis.ask("HLEN", "celeriac:{default}:messages") == 2  # with its data
    broker.close()


def test_calls_to_a_frozen_server_fail_after_the_publish_timeout(redis: RedisServer) -> None:
    broker = broker_on(redis, TIMEOUT)
    broker.publish([message()])
    redis.send(signal.SIGSTOP)
    try:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="did not answer within 2 s"):
                broker.publish([message()])
            took = time.monotonic() - started
            assert took > TIMEOUT * 0.9
            assert in_time(took, TIMEOUT + 1)
        with pytest.raises(BrokerUnavailable, match="did not answer within 2 s"):
            asyncio.run(broker.apublish([message()]))
    finally:
        redis.send(signal.SIGCONT)
    broker.publish([message()])
    broker.close()


@pytest.mark.parametrize("db", [0, 1], ids="database {}".format)
def test_all_coroutines_that_wait_for_a_frozen_server_fail_together(
    redis: RedisServer, db: int
) -> None:
    async def many(broker: RedisBroker) -> list[Any]:
        return await asyncio.gather(*[broker.apublish([message()]) for _ in range(10)], return_exceptions=True)

    for _ in range(3):
        broker = RedisBroker(Server(redis.url[:-1] + str(db), timeout=TIMEOUT), Clock())
        redis.send(signal.SIGSTOP)
        started = time.monotonic()
        try:
            errors = asyncio.run(many(broker))
        finally:
            redis.send(signal.SIGCONT)
        took = time.monotonic() - started
        assert {type(error) for error in errors} == {BrokerUnavailable}
        broker.close()
        if took < TIMEOUT * 5:  # and not one after the other; this process may have stood still
            return
    pytest.fail(f"it took {took:.1f} s in the last of three tries")


@pytest.mark.parametrize("known", [False, True], ids=["before", "after the server was found suitable"])
async def test_who_listens_to_a_frozen_server_lets_the_loop_run_and_fails_soon(redis: RedisServer, known: bool) -> None:
    broker = broker_on(redis, timeout=20.0)
    if known:
        broker.publish([message()])
    pauses: list[float] = []

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            pauses.append(time.monotonic() - last)
            last = time.monotonic()

    redis.send(signal.SIGSTOP)
    ticking, begun = asyncio.ensure_future(tick()), time.monotonic()
    try:
        with pytest.raises(BrokerUnavailable):
            await broker.listen("news")
    finally:
        redis.send(signal.SIGCONT)
        ticking.cancel()
    assert in_time(time.monotonic() - begun, OPEN_SECONDS + 1)
    assert max(pauses, default=20.0) < 0.9 * OPEN_SECONDS
    async with asyncio.timeout(PROMPTLY):
        news = await broker.listen("news")
        await broker.broadcast("news", [b"1"])
        assert await anext(news) == b"1"
    broker.close()


def timed_out_by_the_kernel(redis: RedisServer, broker: RedisBroker) -> Connection:
    """Return an unused connection that the kernel has given up, as it does when keep-alive fails."""
    connection = broker.server.connect(TIMEOUT)
    peer = connection.socket.socket
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 200)
    redis.send(signal.SIGSTOP)
    with suppress(BlockingIOError):
        while True:
            peer.send(b"PING\r\n" * 10_000, socket.MSG_DONTWAIT)
    gone = select.poll()
    gone.register(peer, select.POLLERR)
    assert gone.poll(PROMPTLY * 1000)
    redis.send(signal.SIGCONT)
    return connection


def test_idle_connections_that_the_network_has_lost_are_replaced(redis: RedisServer) -> None:
    broker = broker_on(redis, TIMEOUT)
    for connection in [timed_out_by_the_kernel(redis, broker) for _ in range(2)]:
        broker.server._give(connection)
    broker.publish([message()])
    broker.close()


async def test_held_messages_pauses_and_revocations_survive_a_restart(own_redis: RedisServer) -> None:
    broker = broker_on(own_redis)
    lease = await lease_on(broker)
    broker.publish([message(), message(), message("shut"), message(due_at=time.time() + 60)])
    [held, _] = await receive(lease)
    await broker.operations().pause("shut")
    await broker.revoke(["r"], time.time() + 60)
    own_redis.kill()
    own_redis.start()
    for _ in range(10):
        await asyncio.sleep(0)  # the loop, which stood still, sees that its connection is gone
    assert await lease.settle([Settlement(delivery=held)]) == [True]
    await lease.renew()
    broker.publish([message("other", id="r")])
    assert [delivery.revoked for delivery in await lease.receive(["shut", "other"], {PLAIN: 9}, 0.0)] == [True]
    [default, _, _] = await broker.operations().queues()
    assert (default.active, default.scheduled) == (1, 1)
    broker.close()


async def test_a_lease_does_not_survive_the_loss_of_all_data(redis: RedisServer, broker: RedisBroker) -> None:
    lease = await lease_on(broker)
    redis.ask("FLUSHALL")
    with pytest.raises(LeaseLost):
        await lease.renew()
    with pytest.raises(LeaseLost):
        await receive(lease)


# --- Servers that are not suitable, or full -----------------------------------------------------------


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_with_an_eviction_policy_is_refused(redis: RedisServer, policy: str) -> None:
    redis.ask("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        broker = broker_on(redis)
        with pytest.raises(ImproperlyConfigured, match=f"maxmemory-policy {policy}.*noeviction"):
            broker.publish([message()])
        with pytest.raises(ImproperlyConfigured, match="noeviction"):
            asyncio.run(broker.apublish([message()]))
    finally:
        redis.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    broker.publish([message()])
    broker.close()


@contextmanager
def something_that_says(answer: bytes) -> Iterator[str]:
    """The URL of a port where a server that is not Redis sends this reply."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    guest, _ = listener.accept()
                    guest.recv(1000)
                    guest.sendall(answer)
                    guests.append(guest)

        guests: list[socket.socket] = []
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for guest in guests:
                guest.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x16"],
                         ids=["a web server", "a server that wants TLS"])  # fmt: skip
def test_a_server_that_is_not_redis_is_reported(answer: bytes) -> None:
    with something_that_says(answer) as url:
        broker = RedisBroker(Server(url, timeout=TIMEOUT), Clock())
        for way in (lambda: broker.publish([message()]), lambda: asyncio.run(broker.apublish([message()])),
                    lambda: asyncio.run(lease_on(broker)), lambda: backend_of(broker).fetch(["x"], wait=0.1),
                    lambda: asyncio.run(broker.listen("news"))):  # fmt: skip
            with pytest.raises(BrokerMisconfigured, match=r"does not speak Redis.s protocol.*rediss://"):
                way()
        broker.close()


def test_a_server_that_does_not_allow_info_is_used(redis: RedisServer) -> None:
    redis.ask("ACL", "SETUSER", "app", "on", ">secret", "~celeriac:*", "&celeriac:*", "+@all", "-@dangerous")
    url = redis.url.replace("//", "//app:secret@")
    broker = RedisBroker(Server(url), Clock())
    broker.publish([message()])
    broker.close()
    wrong = RedisBroker(Server(url.replace("secret", "guess")), Clock())
    with pytest.raises(BrokerError, match="user or the password is wrong"):
        wrong.publish([message()])


def test_a_server_without_a_free_connection_is_checked_when_it_has_one(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--maxclients", "10") as redis:
        broker = broker_on(redis, TIMEOUT)
        guests = [socket.create_connection(("127.0.0.1", redis.port)) for _ in range(12)]
        for guest in guests[-2:]:
            assert guest.recv(100).startswith(b"-ERR max number of clients")
        for way in (lambda: broker.publish([message()]), lambda: asyncio.run(broker.apublish([message()])),
                    lambda: asyncio.run(lease_on(broker))) * 10:  # fmt: skip
            with pytest.raises(BrokerUnavailable):
                way()
        for guest in guests:
            guest.close()
        wait_for(lambda: answers(redis), "a free connection")
        redis.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(ImproperlyConfigured):
            broker.publish([message()])
        broker.close()


def answers(redis: RedisServer) -> bool:
    with suppress(OSError):
        return bool(redis.ask("PING") == b"PONG")
    return False


RIGHTS = ("on", ">secret", "~celeriac:*", "+@all", "-@dangerous", "+info")


@contextmanager
def user_on(redis: RedisServer, *rights: str) -> Iterator[RedisBroker]:
    """A broker of a user with these rights."""
    redis.ask("ACL", "SETUSER", "limited", "reset", *rights)
    broker = RedisBroker(Server(redis.url.replace("//", "//limited:secret@")), Clock())
    try:
        yield broker
    finally:
        broker.close()
        redis.ask("ACL", "DELUSER", "limited")


def test_a_user_without_rights_to_the_channels_is_refused_before_anything_is_stored(redis: RedisServer) -> None:
    with user_on(redis, *RIGHTS) as broker:
        for way in (lambda: broker.publish([message()]), lambda: asyncio.run(broker.apublish([message()])),
                    lambda: asyncio.run(lease_on(broker))):  # fmt: skip
            with pytest.raises(BrokerError, match=r"may not do that.*&celeriac:\*") as caught:
                way()
            assert not isinstance(caught.value, BrokerUnavailable)  # waiting will not help
    assert keys(redis) == []


async def test_the_loss_of_rights_to_the_channels_is_reported(redis: RedisServer) -> None:
    with user_on(redis, *RIGHTS, "&celeriac:*") as broker:
        lease, backend = await lease_on(broker), backend_of(broker)
        redis.ask("ACL", "SETUSER", "limited", "resetchannels")
        for way in (lambda: broker.listen("news"), lambda: receive(lease, wait=0.1),
                    lambda: backend.afetch(["x"], wait=0.1), lambda: backend.store([success(message())]),
                    lambda: asyncio.to_thread(backend.fetch, ["x"], 0.1)):  # fmt: skip
            with pytest.raises(BrokerError, match=r"may not do that.*&celeriac:\*") as caught:
                await way()
            assert not isinstance(caught.value, BrokerUnavailable)


async def test_a_full_server_refuses_messages_and_serves_workers(own_redis: RedisServer) -> None:
    broker = broker_on(own_redis)
    lease = await lease_on(broker)
    broker.publish([message() for _ in range(20)])
    own_redis.ask("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        broker.publish([message()])
    got = await receive(lease)
    done = [Settlement(delivery=delivery, outcome=success(delivery.message)) for delivery in got]
    assert await lease.settle(done) == [True] * 10
    await lease.renew()
    assert await lease.sweep() == []
    assert len(await receive(await lease_on(broker), wait=0.01)) == 10
    assert await receive(lease, wait=0.01) == []
    await lease.end()
    broker.close()


async def test_on_a_full_server_tasks_are_recorded_as_started_and_workflows_go_on(own_redis: RedisServer) -> None:
    broker = broker_on(own_redis)
    backend, lease = backend_of(broker), await lease_on(broker)
    await backend.aplant(Plan(id="w", tree=b"", left=3, missing={2: 1}))
    member = message(place=Place("w", 0, 2, True))
    broker.publish([member, message()])
    [held, _] = await receive(lease)
    own_redis.ask("CONFIG", "SET", "maxmemory", "1mb")
    assert await backend.store([Outcome(id="x", task="t", state="STARTED")]) == [True]
    await lease.settle([Settlement(delivery=held, outcome=Outcome(id=member.id, task="t", state="SUCCESS",
                                                                  place=member.place))])  # fmt: skip
    assert list(await backend.claim_pending(10, 5.0)) == [PendingNode("w", 2)]
    assert await lease.advance([Advance(pending=PendingNode("w", 2))]) == [True]
    end = NodeEnd(Outcome(id="y", task="t", state="SUCCESS", place=Place("w", 1, -1)))
    assert await backend.conclude([end]) == [True]
    await broker.revoke(["x"], time.time() + 60.0)
    broker.close()


# --- Keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [86400.0, -86400.0])
@pytest.mark.parametrize(("how", "delay"), [("unknown", 1.0), ("retry", 7.5), ("requeue", 1.0), ("rate", 0.5)])
async def test_what_a_worker_returns_is_due_by_the_clock_of_the_server(
    broker: RedisBroker, off: float, how: str, delay: float
) -> None:
    broker.publish([message()])
    lease, now = await lease_on(broker), time.time() + off
    (delivery,) = await receive(lease)
    ending = returned(how, delivery, now, delay)

    before = await server_time(broker)
    assert await lease.settle([decide(ending, now, 3, 1e9)]) == [True]
    await check_due(broker, before, delay)


@pytest.mark.parametrize("off", [86400.0, -86400.0])
async def test_a_countdown_passes_by_the_clock_of_the_server_and_an_eta_is_an_instant(
    redis: RedisServer, broker: RedisBroker, off: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Celeriac("t", broker_url=redis.url, environ={})
    monkeypatch.setattr(Clock, "now", staticmethod(lambda: time.time() + off))
    before = await server_time(broker)
    await app.asend_task("t", countdown=7.5)
    await check_due(broker, before, 7.5)
    at = datetime.fromtimestamp(before + 60, UTC)
    await app.broker.operations().withdraw("default", 1)
    await app.asend_task("t", eta=at)
    await check_due(broker, at.timestamp(), 0.0)
    app.close()


async def server_time(broker: RedisBroker) -> float:
    whole, micros = await broker.server.ado(("TIME",))
    return int(whole) + int(micros) / 1e6


async def check_due(broker: RedisBroker, since: float, delay: float) -> None:
    """Check that the only scheduled message is due so long after `since` or some time from then until now."""
    _, due_at = await broker.server.ado(("ZRANGE", "celeriac:{default}:due", 0, -1, "WITHSCORES"))
    assert since + delay - 0.001 <= float(due_at) <= max(since, await server_time(broker)) + delay + 0.001


async def test_only_names_of_queues_are_left_when_results_have_expired(redis: RedisServer) -> None:
    broker = broker_on(redis, result_expires=2.0)
    lease, dead = await lease_on(broker), await lease_on(broker, seconds=0.0)
    operations = broker.operations()
    broker.publish([message() for _ in range(30)])
    broker.publish([message("later", due_at=time.time() + 60), message("later", due_at=time.time() + 0.01)])
    await broker.revoke(["r"], time.time() + 1.0)
    await receive(dead, 3)
    await asyncio.sleep(0.05)  # lets one become due
    while deliveries := await lease.receive(["default", "later"], {PLAIN: 7}, 0.1):
        first = success(deliveries[0].message)
        buried = Settlement(delivery=deliveries[0], action=Action.BURY, reason="x", outcome=first)
        rest = [Settlement(delivery=item, outcome=success(item.message)) for item in deliveries[1:]]
        await lease.settle([buried, *rest])
        await lease.sweep()
    letters = await operations.dead(None, 100)
    assert await operations.drop([letter.message.id for letter in letters]) == len(letters) > 0
    assert await operations.purge("later") == 1
    await operations.pause("default")
    await operations.resume("default")
    await lease.end()
    left = ["celeriac:queues", "celeriac:ready:p", "celeriac:soonest"]  # they hold only names of queues
    for _ in range(int(PROMPTLY)):
        await (last := await lease_on(broker)).sweep()
        await last.end()
        if keys(redis) == left:
            break
        await asyncio.sleep(0.1)  # lets results expire
    assert keys(redis) == left
    broker.close()


async def test_workflows_that_expired_leave_the_list_although_nobody_looks_at_it(
    redis: RedisServer, broker: RedisBroker
) -> None:
    backend = backend_of(broker)
    for id in (*(f"expired-{number}" for number in range(20)), "alive"):
        await backend.aplant(Plan(id=id, tree=b"", left=1))
    for number in range(20):
        redis.ask("DEL", f"celeriac:workflow:expired-{number}")
    while redis.ask("ZCARD", "celeriac:unfinished") != 1:  # each time a few, at random
        assert await backend.claim_pending(10, 5.0) == {}
    assert redis.ask("ZRANGE", "celeriac:unfinished", "0", "-1") == [b"alive"]


def test_a_ready_message_takes_less_than_400_bytes(redis: RedisServer, broker: RedisBroker) -> None:
    def used() -> int:
        lines = redis.ask("INFO", "memory").decode().splitlines()
        return int(next(line.partition(":")[2] for line in lines if line.startswith("used_memory:")))

    def sent() -> Message:
        return message(body=b"x" * 100, sent_at=time.time())

    broker.publish([sent()])
    before = used()
    broker.publish([sent() for _ in range(10_000)])
    each = (used() - before) / 10_000
    print(f"{each:.0f} bytes for each waiting message with a body of 100 bytes")
    assert each <= 400
