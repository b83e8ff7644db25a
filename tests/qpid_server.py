"""Qpid Broker-J by AMQP 0-9-1: a real one is named by `CELERIAC_TEST_QPID_URL`; its ways, as its source has them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from msgspec.structs import replace
from pamqp import commands

from celeriac.brokers.amqp.topology import AmqpTopology
from celeriac.brokers.queue_server.topology import DEAD
from celeriac.drivers.amqp import opening
from celeriac.drivers.amqp.dialect import BROKER_J
from celeriac.drivers.amqp.error_translation import MISSING, ChannelClosed
from celeriac.drivers.amqp.server import Server
from tests.amqp10_server import QUEUES
from tests.patience import PATIENCE

__all__ = ["PROPERTIES", "QPID_VARIABLE", "empty", "pretend"]

QPID_VARIABLE = "CELERIAC_TEST_QPID_URL"

PROPERTIES = {
    "product": "qpid", "version": "9.2.0", "qpid.build": "1", "qpid.instance_name": "Broker",
    "qpid.virtualhost_properties_supported": "true", "qpid.message_compression_supported": "true",
    "qpid.queue_lifetime_supported": "true", "qpid.confirmed_publish_supported": "true",
    "qpid.close_when_no_route": "true",
}  # fmt: skip
"""What Broker-J says of itself in `connection.start` (`ConnectionPropertyEnricher` in its source)."""


def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have connections of this process speak to another server as if it were Broker-J.

    RabbitMQ ignores arguments that it does not know. So this shows what Celeriac does, and not what Broker-J does. It
    counts without the messages that it has delivered, and that is left to it.
    """
    pretended = replace(BROKER_J, counts_held=False)
    monkeypatch.setattr(opening, "dialect_of", lambda _: pretended)


def empty(url: str) -> None:
    """Delete what tests have left on a server."""
    server = Server(url, timeout=PATIENCE)

    def deleting() -> Generator[Any, Any, None]:
        topology = AmqpTopology.on(server)
        lines = [f"{queue}{rest}" for queue in QUEUES for rest in ("", "/coroutine", DEAD)]
        for name in (*lines, topology.journal, topology.presence):
            try:
                yield commands.Queue.Delete(queue=name)
            except ChannelClosed as error:
                if error.code != MISSING:
                    raise

    server.do(deleting)
    server.close()
