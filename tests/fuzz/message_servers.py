"""Servers of STOMP and AMQP 1.0, by kind: where they are, and what lies in their protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.fuzz.amqp_lies import AmqpLiar
from tests.fuzz.lies import Liar, StompLiar

__all__ = ["LIARS", "kinds", "url_of"]

LIARS: dict[str, Callable[[int], Liar]] = {
    "stomp-activemq": StompLiar, "amqp10-double": AmqpLiar, "stomp-rabbitmq": StompLiar, "amqp10-rabbitmq": AmqpLiar,
}  # fmt: skip
USUAL = ("stomp-activemq", "amqp10-double")  # one of each protocol


def kinds(config: pytest.Config) -> Iterable[str]:
    """Return the kinds of servers that a test runs on: in `make test`, one of each protocol."""
    return LIARS if config.getoption("--fuzz") else USUAL


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """Return the URL of a server, which begins to run if it does not."""
    names = {"stomp-activemq": "activemq", "stomp-rabbitmq": "place", "amqp10-rabbitmq": "amqp10_rabbit"}
    found: Any = request.getfixturevalue(names.get(kind, "amqp10_double"))
    if kind == "stomp-activemq":
        return str(found.url())
    if kind == "stomp-rabbitmq":
        return str(found.rabbit.stomp_url(found.vhost))
    return str(found if kind == "amqp10-rabbitmq" else found.url)
