"""No task queue: the rate of pika's blocking publish with confirms, the upper bound for libraries that use it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pika  # type: ignore[import-untyped]

from benchmarks.peers.rabbitmq_peer import URL, RabbitMQPeer

BODY = b"x" * 200  # about a message's length


class BareRabbitMQ(RabbitMQPeer):
    """One queue, one blocking channel."""

    title = "bare pika"
    module = "pika"
    packages = ("pika",)
    settings = f"{len(BODY)} bytes, durable, pika's blocking publish with confirms, and nothing around it"
    queue = "bare"

    def __init__(self) -> None:
        self._publisher = pika.BlockingConnection(pika.URLParameters(URL)).channel()
        self._publisher.queue_declare(self.queue, durable=True)
        self._publisher.confirm_delivery()

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        durable = pika.BasicProperties(delivery_mode=2)
        for _ in arguments:
            self._publisher.basic_publish("", self.queue, BODY, durable)

    def roundtrip(self, timeout: float) -> Any:
        raise NotImplementedError

    def worker(self, children: int, tuned: bool) -> list[str]:
        raise NotImplementedError


PEER = BareRabbitMQ()
