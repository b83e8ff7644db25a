"""pika's `SelectConnection`, which calls back: the way in which pika can have many confirms in flight."""

from __future__ import annotations

from typing import Any

import pika  # type: ignore[import-untyped]

from benchmarks.clients.base import ACK_EVERY, BODY, DURABLE, PREFETCH, QUEUE, WINDOW, Client, url


class PikaSelect(Client):
    """One connection, one channel with confirms. The loop runs until a method has what it waits for, then stops."""

    title = "pika, SelectConnection"
    packages = ("pika",)

    def __init__(self) -> None:
        super().__init__()
        self._confirmed = 0
        self._sent = 0
        self._channel: Any = None
        self._connection = pika.SelectConnection(pika.URLParameters(url()), on_open_callback=self._opened,
                                                 on_open_error_callback=self._failed)  # fmt: skip
        self._connection.ioloop.start()

    def _opened(self, connection: Any) -> None:
        self._channel = connection.channel(on_open_callback=self._ready)

    def _failed(self, connection: object, error: Any) -> None:
        raise ConnectionError(str(error))

    def _ready(self, channel: Any) -> None:
        channel.confirm_delivery(self._heard, callback=lambda frame: self._connection.ioloop.stop())

    def _heard(self, frame: Any) -> None:
        assert isinstance(frame.method, pika.spec.Basic.Ack), "the server refused a message"
        self._confirmed = frame.method.delivery_tag if frame.method.multiple else self._confirmed + 1
        if self._confirmed == self._sent:
            self._connection.ioloop.stop()

    def publish_pipelined(self, count: int) -> None:
        properties = pika.BasicProperties(delivery_mode=DURABLE)
        for start in range(0, count, WINDOW):
            part = min(WINDOW, count - start)
            self._sent += part
            for _ in range(part):
                self._channel.basic_publish("", QUEUE, BODY, properties)
            self._connection.ioloop.start()

    def consume(self, count: int) -> None:
        done = 0

        def heard(channel: Any, method: pika.spec.Basic.Deliver, properties: object, body: bytes) -> None:
            nonlocal done
            done += 1
            if not done % ACK_EVERY or done == count:
                channel.basic_ack(method.delivery_tag, multiple=True)
            if done == count:
                self._connection.ioloop.stop()

        self._channel.basic_qos(prefetch_count=PREFETCH)
        self._channel.basic_consume(QUEUE, heard)
        self._connection.ioloop.start()


CLIENT = PikaSelect
