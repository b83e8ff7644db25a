"""pika's `BlockingConnection`. With confirms its `basic_publish` waits for each, so that it cannot pipeline."""

from __future__ import annotations

import pika  # type: ignore[import-untyped]

from benchmarks.clients.base import ACK_EVERY, BODY, DURABLE, PREFETCH, QUEUE, TRANSIENT, Client, url


class PikaBlocking(Client):
    """One connection, one channel with confirms."""

    title = "pika, blocking"
    packages = ("pika",)

    def __init__(self) -> None:
        super().__init__()
        self._channel = pika.BlockingConnection(pika.URLParameters(url())).channel()
        self._channel.confirm_delivery()

    def publish_each(self, count: int, mode: int = DURABLE) -> None:
        properties = pika.BasicProperties(delivery_mode=mode)
        for _ in range(count):
            self._channel.basic_publish("", QUEUE, BODY, properties)

    def publish_transient(self, count: int) -> None:
        self.publish_each(count, TRANSIENT)

    def consume(self, count: int) -> None:
        channel, done = self._channel, 0

        def heard(channel: object, method: pika.spec.Basic.Deliver, properties: object, body: bytes) -> None:
            nonlocal done
            done += 1
            if not done % ACK_EVERY or done == count:
                self._channel.basic_ack(method.delivery_tag, multiple=True)
            if done == count:
                self._channel.stop_consuming()

        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(QUEUE, heard)
        channel.start_consuming()


CLIENT = PikaBlocking
