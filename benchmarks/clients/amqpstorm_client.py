"""AMQPStorm, which reads its socket in a thread. With confirms its `publish` waits for each."""

from __future__ import annotations

import amqpstorm  # type: ignore[import-not-found]

from benchmarks.clients.base import ACK_EVERY, BODY, DURABLE, PREFETCH, QUEUE, TRANSIENT, Client


class AmqpStorm(Client):
    """One connection, one channel with confirms."""

    title = "AMQPStorm"
    packages = ("amqpstorm",)

    def __init__(self) -> None:
        super().__init__()
        connection = amqpstorm.Connection("127.0.0.1", "guest", "guest", port=self.port, virtual_host=self.vhost)
        self._channel = connection.channel()
        self._channel.confirm_deliveries()

    def publish_each(self, count: int, mode: int = DURABLE) -> None:
        for _ in range(count):
            self._channel.basic.publish(BODY, QUEUE, properties={"delivery_mode": mode})

    def publish_transient(self, count: int) -> None:
        self.publish_each(count, TRANSIENT)

    def consume(self, count: int) -> None:
        channel = self._channel
        channel.basic.qos(PREFETCH)
        channel.basic.consume(queue=QUEUE)
        for done, message in enumerate(channel.build_inbound_messages(), 1):
            if not done % ACK_EVERY or done == count:
                channel.basic.ack(message.delivery_tag, multiple=True)
            if done == count:
                return


CLIENT = AmqpStorm
