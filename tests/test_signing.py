"""With `security_keys`, what was not written by somebody with a key is refused and told, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from celeriac import Celeriac, chord, group
from celeriac.app import connections
from celeriac.app.control import COMMANDS
from celeriac.brokers import memory
from celeriac.drivers.memory.store import store
from celeriac.errors import DecodeError, ImproperlyConfigured
from celeriac.inspector import Inspector
from celeriac.model.codec import Codec
from celeriac.model.keys import new_key, parse_key, write_caller_key
from celeriac.model.message import Message, new_id
from celeriac.ports.workflows import Plan, workflow_store
from celeriac.testing import running_worker
from tests.hub_server import HubServer
from tests.patience import PATIENCE, eventually
from tests.rabbitmq_server import Place as Vhost
from tests.redis_server import RedisServer

KEY, OTHER = new_key(), new_key()


@pytest.fixture(params=["sqlite", "redis", "rabbitmq", "hub"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The settings that name a broker and a backend."""
    if request.param == "sqlite":
        return {"broker_url": f"sqlite:///{tmp_path / 'queue.db'}"}
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        return {"broker_url": server.url}
    if request.param == "hub":
        hub: HubServer = request.getfixturevalue("hub_on_time")
        hub.emptied()
        return {"broker_url": hub.url}
    place: Vhost = request.getfixturevalue("place")
    return {"broker_url": place.url, "result_backend": f"sqlite:///{tmp_path / 'results.db'}"}


@pytest.fixture
def make(urls: dict[str, str]) -> Iterator[Callable[..., Celeriac]]:
    """Make apps on one server, which differ in their settings."""
    made: list[Celeriac] = []

    def make(*keys: str, **settings: Any) -> Celeriac:
        app = Celeriac("shop", security_keys=list(keys), task_queues=["mail"], broker_publish_timeout=PATIENCE,
                       **{**urls, **settings})  # fmt: skip
        made.append(app)

        @app.task(name="shop.add")
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="shop.total")
        def total(numbers: list[int]) -> int:
            return sum(numbers)

        @app.task(name="shop.retry", bind=True, max_retries=3)
        def retry(self: Any) -> int:
            if self.request.attempt < 3:
                raise self.retry(countdown=0.01)
            return int(self.request.attempt)

        return app

    yield make
    for app in made:
        app.close()


@contextmanager
def forging(app: Celeriac, codec: Codec) -> Iterator[None]:
    """Have the app's broker use another codec than its settings demand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "codec_of", lambda *_: codec)
        assert app.broker.codec is codec
    yield


def prefix_of(app: Celeriac) -> str:
    """Return the prefix under which the app's adapters sign."""
    return "" if app.broker_url.startswith(("sqlite", "zmq")) else "celeriac"


def call(**fields: Any) -> Message:
    return Message(**{"id": new_id(), "task": "shop.add", "body": b"[[1,2],{}]", **fields})


async def reasons(app: Celeriac) -> list[str]:
    return [letter.reason for letter in await app.broker.operations().dead(None, 100)]


# --- What is signed works -----------------------------------------------------------------------------


@pytest.mark.parametrize("encrypt", [False, True], ids=["signed", "encrypted"])
async def test_calls_retries_and_workflows_work(make: Callable[..., Celeriac], encrypt: bool) -> None:
    app = make(KEY, security_encrypt=encrypt)
    add, total, retry = (app.tasks[f"shop.{name}"] for name in ("add", "total", "retry"))
    with running_worker(make(KEY, security_encrypt=encrypt)):
        assert add.delay(2, 2).get(timeout=PATIENCE) == 4
        assert retry.delay().get(timeout=PATIENCE) == 3
        assert (add.s(1, 1) | add.s(1)).delay().get(timeout=PATIENCE) == 3
        assert chord([add.s(i, i) for i in range(5)], total.s()).delay().get(timeout=PATIENCE) == 20
        assert sum(group(add.s(i, 1) for i in range(20)).delay().get(timeout=PATIENCE)) == 210
        assert [result.get(timeout=PATIENCE) for result in add.delay_many([(1, 2), (3, 4)])] == [3, 7]
        assert add.apply_async((1, 1), countdown=0.1).get(timeout=PATIENCE) == 2
        pinged = await Inspector(app, timeout=PATIENCE).ping()
        assert len(pinged.values) == 1
    assert await reasons(app) == []


def test_a_workflow_that_is_run_again_stays_signed(make: Callable[..., Celeriac]) -> None:
    broken = [True]

    def app_with_careful() -> Celeriac:
        app = make(KEY)

        @app.task(name="shop.careful", max_retries=0)
        def careful(x: int) -> int:
            if broken[0]:
                raise OSError("not yet")
            return x

        return app

    app = app_with_careful()
    with running_worker(app_with_careful()):
        result = (app.tasks["shop.careful"].s(1) | app.tasks["shop.add"].s(1) | app.tasks["shop.add"].s(1)).delay()
        with pytest.raises(OSError, match="not yet"):
            result.get(timeout=PATIENCE)
    broken[0] = False
    assert app.workflow(result.workflow_id).retry() == 1
    with running_worker(app_with_careful()):  # another one: it has to read the workflow
        assert result.get(timeout=PATIENCE) == 3


def test_outcomes_are_sent_to_their_callers_signed(place: Vhost) -> None:
    settings: dict[str, Any] = {"broker_url": place.url, "result_backend": "rpc://", "broker_publish_timeout": PATIENCE}
    caller, worker = (Celeriac("shop", security_keys=[KEY], **settings) for _ in range(2))
    for app in (caller, worker):
        app.task(name="shop.double")(_double)
    with running_worker(worker):
        assert caller.tasks["shop.double"].delay(21).get(timeout=PATIENCE) == 42
    caller.close()
    worker.close()


def _double(x: int) -> int:
    return 2 * x


def test_encrypted_arguments_and_names_are_nowhere_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    app = Celeriac("shop", broker_url=f"sqlite:///{path}", security_keys=[KEY], security_encrypt=True)
    app.send_task("shop.charge", ("4111 1111 1111 1111",))
    app.close()
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"default" in written
    assert b"4111" not in written
    assert b"shop.charge" not in written


def test_keys_are_replaced_without_a_pause(make: Callable[..., Celeriac]) -> None:
    caller = make(KEY, OTHER)  # knows the new key, and signs with the old one
    with running_worker(make(OTHER, KEY)):
        assert caller.tasks["shop.add"].delay(1, 1).get(timeout=PATIENCE) == 2
        assert make(OTHER).tasks["shop.add"].delay(1, 2).get(timeout=PATIENCE) == 3


async def test_a_callers_key_calls_and_reads_and_commands_nobody(make: Callable[..., Celeriac]) -> None:
    caller = make(write_caller_key(parse_key(KEY)))
    with running_worker(make(KEY)):
        add = caller.tasks["shop.add"]
        assert (add.s(1, 1) | add.s(1)).delay().get(timeout=PATIENCE) == 3
        with pytest.raises(ImproperlyConfigured, match="a caller's key"):
            await caller.control.send("shutdown")
    with pytest.raises(ImproperlyConfigured, match="a caller's key"):
        with running_worker(caller):
            pass


# --- What is not, is refused and told -----------------------------------------------------------------


def unsigned(codec: Codec, message: Message) -> bytes:
    return Codec().encode(message)


def changed(codec: Codec, message: Message) -> bytes:
    return codec.encode(message).replace(b"[[1,2],{}]", b"[[1,3],{}]")


def of_another_queue(codec: Codec, message: Message) -> bytes:
    return codec.encode(replace(message, queue="mail"))


def of_another_kind(codec: Codec, message: Message) -> bytes:
    return codec.seal("tree", Codec().encode(message))


def truly(codec: Codec, message: Message) -> bytes:
    return codec.encode(message)


@pytest.mark.parametrize(
    ("key", "forge", "why"),
    [
        (KEY, unsigned, "it is not signed"),
        (OTHER, truly, "which is not among `security_keys`"),
        (KEY, changed, "its signature is wrong"),
        (KEY, of_another_queue, "it was signed for the queue 'mail'"),
        (KEY, of_another_kind, "its signature is wrong"),
    ],
    ids=["unsigned", "another key", "changed", "another queue", "another kind"],
)
async def test_a_message_that_is_not_rightly_signed_becomes_a_dead_letter(
    make: Callable[..., Celeriac], key: str, forge: Callable[[Codec, Message], bytes], why: str
) -> None:
    enemy, app = make(), make(KEY)
    if forge is of_another_queue and app.broker_url.startswith("zmq"):
        pytest.skip("a hub puts a message into the queue that its signed head names")
    codec = Codec([parse_key(key)], prefix_of(app))
    forged = Codec()
    forged.encode = lambda message: forge(codec, message)
    with forging(enemy, forged), running_worker(make(KEY)):
        enemy.broker.publish([call(), call()])
        assert app.tasks["shop.add"].delay(2, 2).get(timeout=PATIENCE) == 4
        await eventually_dead(app, 2)
    assert all(why in reason for reason in await reasons(app)), await reasons(app)


async def eventually_dead(app: Celeriac, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(await reasons(app)) < count:
            await asyncio.sleep(0.05)


async def test_a_signed_message_is_put_aside_where_no_key_is_and_sent_again_once_there_is(
    make: Callable[..., Celeriac],
) -> None:
    app = make(KEY)
    result = app.tasks["shop.add"].delay(2, 3)
    with running_worker(make()):
        await eventually_dead(app, 1)
    operator = make(KEY, security_accept_unsigned=True)  # the letter was written by a worker without a key
    (letter,) = await operator.broker.operations().dead(None, 100)
    assert "that is signed, and `security_keys` is not set here" in letter.reason
    with running_worker(make(KEY)):
        assert await operator.broker.operations().resend([letter.message.id]) == 1
        assert result.get(timeout=PATIENCE) == 5


async def test_what_is_not_signed_is_accepted_while_callers_are_given_keys(make: Callable[..., Celeriac]) -> None:
    caller = make()
    with running_worker(make(KEY, security_accept_unsigned=True)):
        sent = caller.tasks["shop.add"].delay(2, 2)
        assert make(KEY).AsyncResult(sent.id).get(timeout=PATIENCE) == 4


def test_an_outcome_that_is_not_rightly_signed_is_an_error_for_its_caller(make: Callable[..., Celeriac]) -> None:
    app = make(KEY)
    with running_worker(make(KEY)):
        sent = app.tasks["shop.add"].delay(2, 2)
        assert sent.get(timeout=PATIENCE) == 4
    for keys, why in (((), "is signed, and `security_keys` is not set"), ((OTHER,), "is not among `security_keys`")):
        reader = make(*keys)
        with pytest.raises(DecodeError, match=why):
            reader.AsyncResult(sent.id).get(timeout=PATIENCE)


async def test_a_workflow_that_is_not_rightly_signed_does_not_go_on(
    make: Callable[..., Celeriac], caplog: pytest.LogCaptureFixture
) -> None:
    app, enemy = make(KEY), make()
    add = app.tasks["shop.add"]
    sent = (add.s(1, 1) | add.s(1)).apply_async()
    stores = [workflow_store(one.backend) for one in (app, enemy)]
    tree = stores[0].trees([sent.workflow_id])[sent.workflow_id]
    plain = bytes(app.backend.codec.open("tree", tree, sent.workflow_id))
    stores[1].plant(Plan(id=sent.workflow_id, tree=plain, left=2))
    with running_worker(make(KEY)):
        assert sent.parent.get(timeout=PATIENCE) == 2
        await eventually(lambda: "Cannot decode the stored tree" in caplog.text)
    assert "it is not signed" in caplog.text


async def test_control_commands_are_obeyed_once_and_only_if_they_are_signed(
    make: Callable[..., Celeriac], caplog: pytest.LogCaptureFixture
) -> None:
    app, enemy = make(KEY), make()
    with running_worker(make(KEY)):
        heard = await app.broker.listen(COMMANDS)
        await app.control.send("log_level", {"level": "warning"})
        payload = await anext(heard)
        await enemy.control.send("log_level", {"level": "debug"})
        await eventually(lambda: "it is not signed" in caplog.text)
        await enemy.broker.broadcast(COMMANDS, [payload])
        await eventually(lambda: "it is repeated" in caplog.text)
        await heard.aclose()  # type: ignore[attr-defined]
        assert len((await Inspector(app, timeout=PATIENCE).ping()).values) == 1


async def test_a_pause_that_is_not_signed_is_ignored(place: Vhost, caplog: pytest.LogCaptureFixture) -> None:
    app, enemy = (Celeriac("shop", broker_url=place.url, result_backend="rpc://", security_keys=keys,
                           broker_publish_timeout=PATIENCE)
                  for keys in ([KEY], []))  # fmt: skip
    app.task(name="shop.double")(_double)
    await enemy.broker.operations().pause("default")
    with running_worker(app):
        assert app.tasks["shop.double"].delay(2).get(timeout=PATIENCE) == 4
    assert "Entries of the journal are ignored" in caplog.text
    app.close()
    enemy.close()


def test_an_adapter_that_signs_nothing_is_refused_where_keys_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "connect", lambda url, clock, **_: memory.MemoryBroker(store("plain"), clock))
    app = Celeriac("shop", broker_url="memory://plain", security_keys=[KEY])
    with pytest.raises(ImproperlyConfigured, match="does not sign what it stores"):
        app.control.revoke("x")
