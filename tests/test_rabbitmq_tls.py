"""`amqps://` on a real RabbitMQ: a certificate that is wrong is an error of the configuration, not an outage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from celeriac.brokers.amqp import AmqpBroker
from celeriac.drivers.amqp.server import Server
from celeriac.errors import BrokerMisconfigured
from celeriac.model.clock import Clock
from tests.certificates import Certificates
from tests.conformance.broker import message
from tests.patience import PATIENCE
from tests.promises.harness import set_stage
from tests.rabbitmq_server import FrailRabbit

WAYS: dict[str, Callable[[AmqpBroker], Any]] = {
    "publish": lambda broker: broker.publish([message()]),
    "apublish": lambda broker: asyncio.run(broker.apublish([message()])),
}
both_ways = pytest.mark.parametrize("way", WAYS)


class Secure(NamedTuple):
    """A server with TLS that requires a client certificate; its own is for 127.0.0.1."""

    port: int
    authority: Path
    other_authority: Path
    client: str  # the options that name the client's certificate

    def url(self, authority: Path, options: str = "", host: str = "127.0.0.1") -> str:
        return f"amqps://{host}:{self.port}/?ssl_ca_certs={authority}{options}"


@pytest.fixture(scope="module")
def secure(frail_rabbit: FrailRabbit, tmp_path_factory: pytest.TempPathFactory) -> Secure:
    ours, theirs = frail_rabbit.certificates, Certificates(tmp_path_factory.mktemp("tls") / "theirs")
    mine, my_key = ours.sign("client", "DNS:client")
    return Secure(frail_rabbit.port, ours.authority, theirs.authority, f"&ssl_certfile={mine}&ssl_keyfile={my_key}")


def through(url: str, way: str) -> None:
    """Publish a message through a URL, in one of the ways."""
    server = Server(url, timeout=PATIENCE)
    try:
        WAYS[way](AmqpBroker(server, Clock()))
    finally:
        server.close()


def test_amqps_works(secure: Secure) -> None:
    through(secure.url(secure.authority, secure.client), "publish")


@both_ways
def test_a_certificate_of_an_unknown_authority_is_refused_with_the_next_step(secure: Secure, way: str) -> None:
    with pytest.raises(BrokerMisconfigured, match=r"certificate of the AMQP server .*amqps://…\?ssl_ca_certs="):
        through(secure.url(secure.other_authority, secure.client), way)


@both_ways
def test_a_certificate_for_another_name_is_refused(secure: Secure, way: str) -> None:
    with pytest.raises(BrokerMisconfigured, match=r"certificate of the AMQP server .*localhost"):
        through(secure.url(secure.authority, secure.client, host="localhost"), way)


def test_a_worker_works_over_amqps_and_exits_if_it_cannot_trust_the_server(secure: Secure, tmp_path: Path) -> None:
    with set_stage(tmp_path) as stage:
        url = secure.url(secure.authority, secure.client)
        stage.ground.environment["CELERIAC_BROKER_URL"] = stage.app.conf.broker_url = url
        worker = stage.worker(result_backend=f"sqlite:///{tmp_path / 'results.db'}")
        worker.stop()
        stage.ground.environment["CELERIAC_BROKER_URL"] = secure.url(secure.other_authority, secure.client)
        distrusting = stage.worker(ready=False, result_backend=f"sqlite:///{tmp_path / 'results.db'}")
        assert distrusting.wait() != 0
        assert "ssl_ca_certs" in distrusting.text()
        assert "Traceback" not in distrusting.text()
