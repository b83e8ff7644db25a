"""Our driver's blocking connection."""

from __future__ import annotations

import time

from pamqp import commands

from benchmarks.blocking_consumer import BlockingConsumer
from benchmarks.clients.base import ACK_EVERY, BODY, PREFETCH, QUEUE, WINDOW, Client, url
from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.blocking import CHANNEL
from celeriac.drivers.amqp.frames import Publication, acknowledge, properties

SECONDS = 60.0
PUBLICATION = Publication("", QUEUE, properties(), BODY, mandatory=False)
TRANSIENT_PUBLICATION = PUBLICATION._replace(properties=b"\x10\0\x01")  # a delivery mode of 1, and nothing else


class CeleriacAmqp(Client):
    """One connection; its channel has confirms."""

    title = "Celeriac, blocking"
    packages = ("celeriac", "pamqp")

    def __init__(self) -> None:
        super().__init__()
        self._connection = BlockingConsumer(Address.of(url()), SECONDS)

    def publish_each(self, count: int, publication: Publication = PUBLICATION) -> None:
        for _ in range(count):
            self._connection.publish([publication], SECONDS)

    def publish_transient(self, count: int) -> None:
        self.publish_each(count, TRANSIENT_PUBLICATION)

    def publish_pipelined(self, count: int) -> None:
        for start in range(0, count, WINDOW):
            self._connection.publish([PUBLICATION] * min(WINDOW, count - start), SECONDS)

    def consume(self, count: int) -> None:
        connection = self._connection
        connection.call(commands.Basic.Qos(prefetch_count=PREFETCH), time.monotonic() + SECONDS)
        connection.call(commands.Basic.Consume(queue=QUEUE), time.monotonic() + SECONDS)
        for done in range(1, count + 1):
            content = connection.hear(SECONDS)
            if not done % ACK_EVERY or done == count:
                connection.send(acknowledge(CHANNEL, content.tag, multiple=True))


CLIENT = CeleriacAmqp
