"""Connections to real Redis servers: TCP, TLS and Unix sockets; right and wrong users and passwords."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac.backends.redis import RedisBackend
from celeriac.brokers.redis import RedisBroker
from celeriac.drivers.redis.server import Server
from celeriac.errors import BrokerError, BrokerMisconfigured, BrokerUnavailable, ImproperlyConfigured
from celeriac.model.clock import Clock
from celeriac.model.message import PLAIN
from celeriac.ports.broker import Settlement
from celeriac.ports.operations import WorkerInfo
from tests.certificates import Certificates
from tests.conformance.broker import message, success
from tests.patience import PATIENCE
from tests.promises.harness import set_stage
from tests.redis_server import RedisServer, running_redis

WAYS: dict[str, Callable[[RedisBroker], Any]] = {
    "publish": lambda broker: broker.publish([message()]),
    "apublish": lambda broker: asyncio.run(broker.apublish([message()])),
}
both_ways = pytest.mark.parametrize("way", WAYS)


def broker_at(url: str, timeout: float = 30.0) -> RedisBroker:
    return RedisBroker(Server(url, timeout=timeout), Clock(), 60.0)


async def serves(url: str) -> None:
    """Use each kind of connection of a broker and a backend."""
    broker = broker_at(url)
    backend = RedisBackend(broker.server, broker.clock)
    try:
        sent = [message(), message()]
        await asyncio.to_thread(broker.publish, sent[:1])
        lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
        got = await lease.receive(["default"], {PLAIN: 9}, 1.0)
        waiting = asyncio.ensure_future(lease.receive(["default"], {PLAIN: 9}, 60.0))  # subscribes
        result = asyncio.ensure_future(asyncio.to_thread(backend.fetch, [sent[1].id], 60.0))  # subscribes, in a thread
        await asyncio.sleep(0.1)  # lets both subscribe
        await broker.apublish(sent[1:])
        got += await waiting
        assert [delivery.message.id for delivery in got] == [one.id for one in sent]
        assert await lease.settle([Settlement(delivery=got[0]), Settlement(delivery=got[1])]) == [True, True]
        await backend.store([success(sent[1])])
        assert list(await result) == [sent[1].id]
        await lease.end()
    finally:
        broker.close()


# --- TLS ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Certificates(tmp_path_factory.mktemp("tls") / "theirs").authority


@pytest.fixture(scope="module")
def shared_tls_redis(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[RedisServer]:
    """A server with TLS that does not require client certificates."""
    certificate, key = certificates.sign("server", "IP:127.0.0.1")
    with tls_server(tmp_path_factory.mktemp("redis"), certificates, certificate, key, "optional") as server:
        yield server


@pytest.fixture
def tls_redis(shared_tls_redis: RedisServer) -> RedisServer:
    shared_tls_redis.ask("FLUSHALL")
    return shared_tls_redis


def tls_server(folder: Path, certificates: Certificates, certificate: Path, key: Path, clients: str) -> Any:
    return running_redis(
        folder, "--tls-cert-file", str(certificate), "--tls-key-file", str(key),
        "--tls-ca-cert-file", str(certificates.authority), "--tls-auth-clients", clients, tls=True,
    )  # fmt: skip


async def test_tls_works(tls_redis: RedisServer, certificates: Certificates) -> None:
    await serves(f"{tls_redis.tls_url}?ssl_ca_certs={certificates.authority}")


async def test_tls_works_without_verifying_the_certificate(tls_redis: RedisServer) -> None:
    await serves(f"{tls_redis.tls_url}?ssl_cert_reqs=none")


@both_ways
def test_a_certificate_of_an_unknown_authority_is_refused_with_the_next_step(
    tls_redis: RedisServer, other_authority: Path, way: str
) -> None:
    broker = broker_at(f"{tls_redis.tls_url}?ssl_ca_certs={other_authority}")
    with pytest.raises(BrokerMisconfigured, match=r"certificate.*ssl_ca_certs"):
        WAYS[way](broker)


@both_ways
def test_a_certificate_for_another_name_is_refused(
    tls_redis: RedisServer, certificates: Certificates, way: str
) -> None:
    url = tls_redis.tls_url.replace("127.0.0.1", "localhost")
    with pytest.raises(BrokerMisconfigured, match=r"certificate.*localhost"):
        WAYS[way](broker_at(f"{url}?ssl_ca_certs={certificates.authority}"))
    WAYS[way](broker_at(f"{url}?ssl_ca_certs={certificates.authority}&ssl_check_hostname=false"))


@both_ways
def test_a_server_that_requires_a_client_certificate_gets_it(
    tmp_path: Path, certificates: Certificates, way: str
) -> None:
    certificate, key = certificates.sign("strict", "IP:127.0.0.1")
    mine, my_key = certificates.sign("client", "DNS:client")
    with tls_server(tmp_path, certificates, certificate, key, "yes") as server:
        url = f"{server.tls_url}?ssl_ca_certs={certificates.authority}"
        with pytest.raises(BrokerUnavailable):
            WAYS[way](broker_at(url))
        WAYS[way](broker_at(f"{url}&ssl_certfile={mine}&ssl_keyfile={my_key}"))


@both_ways
def test_tls_to_a_server_without_it_and_the_reverse_are_reported(
    tls_redis: RedisServer, redis: RedisServer, way: str
) -> None:
    with pytest.raises(BrokerUnavailable):
        WAYS[way](broker_at(redis.url.replace("redis://", "rediss://"), timeout=1.0))
    with pytest.raises(BrokerUnavailable):
        WAYS[way](broker_at(tls_redis.tls_url.replace("rediss://", "redis://"), timeout=1.0))


@both_ways
def test_the_error_names_a_missing_certificate_file(tls_redis: RedisServer, way: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"/nowhere/ca\.crt"):
        WAYS[way](broker_at(f"{tls_redis.tls_url}?ssl_ca_certs=/nowhere/ca.crt"))


def test_a_worker_works_over_tls_and_exits_if_it_cannot_trust_the_server(
    tls_redis: RedisServer, certificates: Certificates, other_authority: Path, tmp_path: Path
) -> None:
    url = f"{tls_redis.tls_url}?ssl_ca_certs={certificates.authority}"
    with set_stage(tmp_path) as stage:
        stage.ground.environment["CELERIAC_BROKER_URL"] = stage.app.conf.broker_url = url
        worker = stage.worker()
        results = [stage.send(lane, "returns", 1) for lane in ("plain", "coroutine")]
        assert [result.get(timeout=PATIENCE) for result in results] == [1, 1]
        assert worker.stop() == 0
        stage.ground.environment["CELERIAC_BROKER_URL"] = f"{tls_redis.tls_url}?ssl_ca_certs={other_authority}"
        distrusting = stage.worker(ready=False)
        assert distrusting.wait() != 0
        assert "ssl_ca_certs" in distrusting.text()
        assert "Traceback" not in distrusting.text()


# --- Unix sockets -------------------------------------------------------------------------------------


async def test_a_unix_socket_works(redis: RedisServer) -> None:
    await serves(f"unix://{redis.folder}/s")


@both_ways
def test_the_error_names_a_missing_unix_socket(tmp_path: Path, way: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"nobody\.sock"):
        WAYS[way](broker_at(f"unix://{tmp_path}/nobody.sock"))


# --- Passwords ----------------------------------------------------------------------------------------


@pytest.fixture
def guarded(redis: RedisServer) -> Iterator[RedisServer]:
    """A server with a user `app`, whose password is "s3cret/@", and with a password for the default user."""
    redis.ask("ACL", "SETUSER", "app", "on", ">s3cret/@", "~celeriac:*", "&celeriac:*", "+@all", "-@dangerous")
    redis.ask("ACL", "SETUSER", "nobody", "on", ">x", "~other:*", "+@read")
    yield redis
    redis.ask("ACL", "DELUSER", "app", "nobody")


@pytest.mark.parametrize("place", ["redis://app:s3cret%2F%40@127.0.0.1:{port}", "unix://app:s3cret%2F%40@{folder}/s"])
async def test_a_user_with_the_right_password_is_accepted(guarded: RedisServer, place: str) -> None:
    await serves(place.format(port=guarded.port, folder=guarded.folder))


@both_ways
@pytest.mark.parametrize(
    ("user", "words"),
    [("app:guess", "user or the password is wrong"), ("stranger:x", "user or the password is wrong"),
     ("nobody:x", "may not do that")],
)  # fmt: skip
def test_the_error_for_a_rejected_user_has_the_reason(guarded: RedisServer, user: str, words: str, way: str) -> None:
    with pytest.raises(BrokerError, match=words) as caught:
        WAYS[way](broker_at(f"redis://{user}@127.0.0.1:{guarded.port}"))
    assert "guess" not in str(caught.value)


@both_ways
def test_the_error_for_a_missing_password_says_so(tmp_path: Path, way: str) -> None:
    with running_redis(tmp_path, "--requirepass", "open sesame", password="open sesame") as server:
        with pytest.raises(BrokerError, match="wants a password"):
            WAYS[way](broker_at(server.url))
        WAYS[way](broker_at(server.url.replace("//", "//:open%20sesame@")))
