"""The AMQP driver and `rpc://`: failing connections, refusals, the end of a process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from msgspec.structs import replace
from pamqp import commands

from celeriac import states
from celeriac.backends import replies, reply_subscriptions
from celeriac.backends.amqp import RpcBackend
from celeriac.brokers.amqp.transport import AmqpTransport
from celeriac.drivers.amqp import opening
from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.aio import AioConnection
from celeriac.drivers.amqp.blocking import Connection
from celeriac.drivers.amqp.confirms import Confirms
from celeriac.drivers.amqp.error_translation import ChannelClosed
from celeriac.drivers.amqp.frames import Confirmed, Method, Parser, Publication, method, properties
from celeriac.errors import BackendError, BrokerUnavailable, ResultLost
from celeriac.model.clock import Clock
from celeriac.model.outcome import Outcome
from tests.conformance.broker import LONG, PROMPTLY, ids, message, receive, success
from tests.patience import PATIENCE, in_time, wait_for
from tests.proxies import Listening, Proxy
from tests.rabbitmq_server import Place
from tests.test_rabbitmq import TIMEOUT, hurried, lease_on

TOO_LARGE = b"x" * 1_200_000  # for the frail server, which takes 1 MB


@pytest.fixture
def proxy(place: Place) -> Iterator[Proxy]:
    made = Proxy(place.rabbit.port)
    yield made
    made.close()


def through(proxy: Proxy, place: Place) -> str:
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/{quote(place.vhost)}"


def reply(backend: RpcBackend, **fields: Any) -> Outcome:
    return replace(success(message()), reply_to=backend.reply_to, **fields)


def reply_queues(place: Place) -> list[dict[str, Any]]:
    found = place.rabbit.ask("GET", f"/api/queues/{quote(place.vhost)}?columns=name,arguments")
    return [queue for queue in found if queue["name"].startswith("celeriac.reply.")]


# --- Replies ------------------------------------------------------------------------------------------


def test_a_deleted_reply_queue_is_declared_again(place: Place) -> None:
    backend = RpcBackend(place.server(), Clock())
    first = reply(backend)
    asyncio.run(backend.store([first]))
    assert backend.fetch([first.id], wait=LONG)
    assert place.rabbit.ask("DELETE", f"/api/queues/{quote(place.vhost)}/{backend.reply_to}") is not None
    wait_for(lambda: reply_queues(place), "another reply queue")
    second = reply(backend)
    asyncio.run(backend.store([second]))
    assert backend.fetch([second.id], wait=LONG) == {second.id: second}
    backend.close()


def test_a_reader_reconnects_without_heartbeats(place: Place, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_subscriptions, "HEARTBEAT", 1)
    backend, other = RpcBackend(place.server(through(proxy, place)), Clock()), RpcBackend(place.server(), Clock())
    first, second = reply(backend), reply(backend)
    asyncio.run(other.store([first]))
    assert backend.fetch([first.id], wait=LONG)
    proxy.swallow()
    asyncio.run(other.store([second]))
    assert backend.fetch([second.id], wait=LONG) == {second.id: second}
    backend.close()


def test_a_result_that_is_too_large_becomes_a_failure_and_the_others_pass(frail: Place) -> None:
    backend = RpcBackend(frail.server(), Clock())
    small, large, told = (reply(backend), reply(backend, value=TOO_LARGE),
                          reply(backend, value=TOO_LARGE, state=states.PROGRESS))  # fmt: skip
    assert asyncio.run(backend.store([large, told, small])) == [True, True, True]
    assert backend.fetch([small.id], wait=LONG) == {small.id: small}
    found = backend.fetch([large.id], wait=LONG)[large.id]
    assert found.state == states.FAILURE
    assert isinstance(error := found.exception(), BackendError)
    assert "max_message_size" in str(error)
    assert backend.fetch([told.id])[told.id].value is None
    backend.close()


def test_fetching_a_result_that_was_dropped_is_an_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "FETCHED", 2)
    backend = RpcBackend(place.server(), Clock())
    outcomes = [reply(backend) for _ in range(3)]
    asyncio.run(backend.store(outcomes))
    for outcome in outcomes:
        assert backend.fetch([outcome.id], wait=LONG) == {outcome.id: outcome}
    assert backend.fetch([outcomes[1].id]) == {outcomes[1].id: outcomes[1]}
    with pytest.raises(ResultLost, match="rpc:// keeps the last 2"):
        backend.fetch([outcomes[0].id], wait=LONG)
    with pytest.raises(ResultLost):
        asyncio.run(backend.afetch([outcomes[0].id]))
    backend.close()


def test_a_fork_while_outcomes_are_read_does_not_block_the_child(place: Place) -> None:
    backend = RpcBackend(place.server(), Clock())
    with backend._lock:  # as the reader holds it
        pid = os.fork()
        if not pid:
            signal.alarm(int(PROMPTLY))
            os._exit(0 if backend.fetch(["x"]) == {} else 1)
    assert os.waitpid(pid, 0)[1] == 0


# --- The end of a process -----------------------------------------------------------------------------

CALLING = f"""
import sys
from celeriac import Celeriac
app = Celeriac("x", broker_url=sys.argv[1], result_backend="rpc://", environ={{}}, broker_publish_timeout={PATIENCE})
@app.task
def add(x, y): return x + y
@app.task
def fan(): add.delay(1, 2)
"""


@pytest.mark.parametrize("end", ["", "; app.close()"])
def test_a_process_deletes_its_reply_queue_at_its_end(place: Place, end: str) -> None:
    code = f"{CALLING}\nfrom celeriac.backends import amqp; amqp.LEAVING_SECONDS = 100.0; add.delay(1, 2){end}"
    subprocess.run([sys.executable, "-c", code, place.url], check=True, timeout=PROMPTLY)
    assert reply_queues(place) == []


def test_a_process_ends_though_the_server_does_not_answer(frail: Place) -> None:
    code = f"{CALLING}\nadd.delay(1, 2); print(flush=True); sys.stdin.readline()"
    process = subprocess.Popen([sys.executable, "-c", code, frail.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    frail.rabbit.send(signal.SIGSTOP)
    try:
        started = time.monotonic()
        process.communicate(b"\n", timeout=PROMPTLY)
        assert in_time(time.monotonic() - started, 5)
    finally:
        frail.rabbit.send(signal.SIGCONT)


@pytest.mark.parametrize(("tasks", "left"), [("1", []), ("100", [{"x-expires": 60_000}])])
def test_a_workers_child_deletes_its_reply_queue_and_that_of_a_killed_child_expires_soon(
    place: Place, tmp_path: Path, tasks: str, left: list[dict[str, int]]
) -> None:
    (tmp_path / "fans.py").write_text(CALLING.replace("sys.argv[1]", repr(place.url)))
    worker = subprocess.Popen([sys.executable, "-m", "celeriac", "-A", "fans", "worker", "--concurrency", "1",
                               "--max-tasks-per-child", tasks], cwd=tmp_path, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        code = "import fans\nfor _ in range(3): fans.fan.delay().get(timeout=100)"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=PROMPTLY)
        wait_for(lambda: [queue["arguments"] for queue in reply_queues(place)] == left, "what is left of reply queues")
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(PROMPTLY)


# --- Connections that do not answer -------------------------------------------------------------------


async def test_a_connection_that_does_not_answer_a_call_is_closed(
    place: Place, proxy: Proxy
) -> None:
    broker = place.broker(through(proxy, place))
    await broker.apublish([message()])
    proxy.swallow()
    with hurried(broker), pytest.raises(BrokerUnavailable, match="did not answer"):
        await broker.apublish([message()])
    await broker.apublish([message()])


async def test_who_waits_to_call_while_another_opens_the_connection_again_calls_on_the_new_one(place: Place) -> None:
    server = place.server()
    await server.learn()
    session = server.session()
    async with session._calling_lock:  # another caller's
        waiting = asyncio.ensure_future(server.ado(lambda: AmqpTransport(server).exists("nowhere")))
        await asyncio.sleep(0.01)  # lets it wait
        session.close()  # lost, and not opened again yet
    assert await waiting is False


def test_idle_connections_are_closed_together_when_one_does_not_answer(place: Place, proxy: Proxy) -> None:
    broker = place.broker(through(proxy, place))
    several = [broker.server.connect_blocking(LONG) for _ in range(3)]
    for connection in several:
        broker.server._give(connection)
    proxy.swallow()
    with hurried(broker), pytest.raises(BrokerUnavailable, match="did not answer"):
        broker.publish([message()])
    broker.publish([message()])


@pytest.mark.parametrize("mute", [True, False])
async def test_the_next_host_is_tried_when_one_accepts_and_does_not_answer(place: Place, mute: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:

        def hang_up() -> None:
            for _ in range(2):
                first.accept()[0].close()

        if not mute:
            threading.Thread(target=hang_up, daemon=True).start()
        port = first.getsockname()[1]
        url = f"amqp://guest:guest@127.0.0.1:{port},127.0.0.1:{place.rabbit.port}/{quote(place.vhost)}"

        async def send(timeout: float) -> None:
            broker = place.broker(url, timeout=timeout)
            await broker.apublish([message(id="a")])
            await asyncio.to_thread(broker.publish, [message(id="b")])

        try:
            await send(10.0 if mute else PATIENCE)  # half of it goes to the host that does not answer
        except BrokerUnavailable:
            await send(PATIENCE)  # the other host has stood still too
        assert set(ids(await receive(await lease_on(place.broker())))) == {"a", "b"}


# --- Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["publish", "apublish"])
async def test_only_refused_messages_are_sent_again(place: Place, way: str) -> None:
    broker = place.broker()
    full = {"durable": True, "arguments": {"x-max-length": 1, "x-overflow": "reject-publish"}}
    assert place.rabbit.ask("PUT", f"/api/queues/{quote(place.vhost)}/full", full) is not None
    broker.publish([message("full")])
    for timeout in (2 * TIMEOUT, 20 * TIMEOUT):
        queue = f"ok{timeout:g}"
        some = [message(queue, id="a"), message("full", id="refused"), message(queue, id="b")]
        sending = broker.apublish(some) if way == "apublish" else asyncio.to_thread(broker.publish, some)
        # On a busy machine the time-out may come while the server has not refused it again yet.
        refusal = pytest.raises(BrokerUnavailable, match=r"1 of 1 messages were not accepted|did not answer")
        with hurried(broker, timeout), refusal as error:
            await sending
        if "not accepted" in str(error.value):
            break
    assert ids(await receive(await lease_on(broker), queues=[queue])) == ["a", "b"]


async def test_a_message_that_is_too_large_fails_for_its_caller_alone(frail: Place) -> None:
    broker = frail.broker()
    await broker.apublish([message(id="first")])
    told = await asyncio.gather(*(broker.apublish([message(id=f"{i}", body=TOO_LARGE if i == 5 else b"")])
                                  for i in range(10)), return_exceptions=True)  # fmt: skip
    assert [str(i) for i, error in enumerate(told) if error is not None] == ["5"]
    assert isinstance(told[5], ChannelClosed)
    assert told[5].too_large
    got = await receive(await lease_on(broker), 100)
    assert set(ids(got)) == {"first", *(str(i) for i in range(10) if i != 5)}
    twice = {id for id in ids(got) if ids(got).count(id) > 1}
    assert twice <= {delivery.message.id for delivery in got if delivery.again}


# --- Confirms -----------------------------------------------------------------------------------------


def test_a_confirm_of_all_up_to_a_tag_costs_no_more_than_what_waits() -> None:
    confirms, item = Confirms(), Publication("", "q", b"", b"")
    confirms._tag = 10**12  # so many were confirmed one by one
    first, second, third = (confirms.sent([item] * 3) for _ in range(3))
    confirms.confirmed(Confirmed(1, 10**12 + 5, multiple=False, good=False))
    confirms.confirmed(Confirmed(1, 10**12 + 7, multiple=True, good=True))
    assert ([batch.left for batch in (first, second, third)], len(second.refused)) == ([0, 0, 2], 1)
    confirms.confirmed(Confirmed(1, 2**63, multiple=True, good=True))  # more than were sent
    assert (third.left, confirms._waiting) == (0, {})
    last = confirms.sent([item])
    confirms.confirmed(Confirmed(1, 10**12 + 10, multiple=True, good=False))
    assert (last.left, last.refused) == (0, [item])


async def test_a_server_without_confirms_leaves_nothing_in_memory(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(**facts: Any) -> opening.Facts:
        return known(**{**facts, "confirms": False})

    known = opening.Facts
    monkeypatch.setattr(opening, "Facts", without)
    items = [Publication("", "nowhere", properties(), b"", False)] * 10
    connection = Connection(Address.of(place.url), LONG)
    assert connection.publish(items, LONG) == []
    assert connection._confirms._waiting == {}
    connection.close()
    channel = await (await AioConnection.connect(Address.of(place.url), LONG)).channel(confirms=True)
    assert await channel.publish(items) == []
    assert channel.confirms._waiting == {}
    channel.connection.close()


class Plain(Listening):
    """An AMQP server that announces no capabilities, and answers a request for confirms as it is told."""

    def __init__(self, refusal: Any) -> None:
        self._refusal = refusal
        super().__init__()
        self.url = f"amqp://127.0.0.1:{self.port}"

    def take(self, one: socket.socket) -> None:
        with one:
            self._serve(one)

    def _serve(self, one: socket.socket) -> None:
        answers = {
            commands.Connection.StartOk: commands.Connection.Tune(0, 0, 0),
            commands.Connection.Open: commands.Connection.OpenOk(),
            commands.Channel.Open: commands.Channel.OpenOk(),
            commands.Channel.Close: commands.Channel.CloseOk(),
            commands.Confirm.Select: self._refusal,
        }
        parser = Parser()
        one.recv(8)
        one.sendall(method(0, commands.Connection.Start(server_properties={}, mechanisms="PLAIN")))
        while data := one.recv(65536):
            for event in parser.feed(data):
                if isinstance(event, Method) and type(event.frame) in answers:
                    answer = answers[type(event.frame)]
                    one.sendall(method(0 if answer.name.startswith("Connection") else event.channel, answer))


@pytest.mark.parametrize(
    ("answer", "confirms"),
    [
        (commands.Confirm.SelectOk(), True),
        (commands.Channel.Close(540, "NOT_IMPLEMENTED", 85, 10), False),
        (commands.Connection.Close(540, "NOT_IMPLEMENTED", 85, 10), False),
    ],
)
async def test_confirms_are_tried_where_the_server_does_not_announce_them(answer: Any, confirms: bool) -> None:
    server = Plain(answer)
    connection = await asyncio.to_thread(Connection, Address.of(server.url), LONG)
    assert connection.facts.confirms is confirms
    connection.close()
    other = await AioConnection.connect(Address.of(server.url), LONG)
    assert other.facts.confirms is confirms
    assert (await other.channel(confirms=True)).confirming is confirms
    other.close()
    server.close()


# --- Channels -----------------------------------------------------------------------------------------


async def test_numbers_of_channels_are_used_again(place: Place) -> None:
    connection = await AioConnection.connect(Address.of(place.url), LONG)
    for _ in range(5):
        channel = await connection.channel()
        with pytest.raises(ChannelClosed):
            await channel.call(commands.Queue.Declare(queue="nowhere", passive=True))
        channel = await connection.channel()
        await channel.call(commands.Channel.Close(200, "", 0, 0))
        kept = await connection.channel()
        kept.close()
        await (await connection.channel()).call(commands.Basic.Qos(prefetch_count=1))
    assert connection._numbers < 10
    connection.close()


async def test_running_out_of_channels_is_reported(place: Place) -> None:
    connection = await AioConnection.connect(Address.of(place.url), LONG)
    connection._numbers = connection.facts.channel_max
    with pytest.raises(BrokerUnavailable, match=r"Raise `channel_max` in rabbitmq.conf"):
        await connection.channel()
    connection.close()


def test_closing_a_channel_does_not_lose_a_frame_that_was_received_in_part(place: Place) -> None:
    connection = Connection(Address.of(place.url), LONG)
    delivery = method(0, commands.Connection.Blocked("memory"))
    data = method(1, commands.Channel.Close(404, "NOT_FOUND", 50, 10)) + delivery[:9]
    connection._deadline = time.monotonic() + LONG
    connection._reopen = lambda close: None  # type: ignore[method-assign]  # the server knows of no closing
    connection.take(data)
    connection.take(delivery[9:])
    assert connection.blocked == "memory"
    connection.close()
