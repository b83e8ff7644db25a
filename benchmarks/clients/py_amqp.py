"""py-amqp, which kombu uses. `basic_publish_confirm` waits for each confirm; without it, `drain_events` reads them."""

from __future__ import annotations

from typing import Any

import amqp  # type: ignore[import-untyped]

from benchmarks.clients.base import ACK_EVERY, BODY, DURABLE, PREFETCH, QUEUE, TRANSIENT, WINDOW, Client


class PyAmqp(Client):
    """One connection, one channel with confirms."""

    title = "py-amqp"
    packages = ("amqp",)

    def __init__(self) -> None:
        super().__init__()
        self._connection = amqp.Connection(f"127.0.0.1:{self.port}", "guest", "guest", virtual_host=self.vhost)
        self._connection.connect()
        self._channel = self._connection.channel()
        self._confirmed = self._sent = 0

    def publish_each(self, count: int, mode: int = DURABLE) -> None:
        for _ in range(count):
            message = amqp.Message(BODY, delivery_mode=mode)
            self._channel.basic_publish_confirm(message, routing_key=QUEUE)

    def publish_transient(self, count: int) -> None:
        self.publish_each(count, TRANSIENT)

    def publish_pipelined(self, count: int) -> None:
        if not self._sent:
            self._channel.confirm_select()
            self._channel.events["basic_ack"].add(self._heard)
        for start in range(0, count, WINDOW):
            part = min(WINDOW, count - start)
            self._sent += part
            for _ in range(part):
                self._channel.basic_publish(amqp.Message(BODY, delivery_mode=DURABLE), routing_key=QUEUE)
            while self._confirmed < self._sent:
                self._connection.drain_events(timeout=60)

    def _heard(self, tag: int, multiple: bool) -> None:
        self._confirmed = tag if multiple else self._confirmed + 1

    def consume(self, count: int) -> None:
        channel, done = self._channel, 0

        def heard(message: Any) -> None:
            nonlocal done
            done += 1
            if not done % ACK_EVERY or done == count:
                channel.basic_ack(message.delivery_tag, multiple=True)

        channel.basic_qos(0, PREFETCH, False)
        channel.basic_consume(QUEUE, callback=heard)
        while done < count:
            self._connection.drain_events(timeout=60)


CLIENT = PyAmqp
