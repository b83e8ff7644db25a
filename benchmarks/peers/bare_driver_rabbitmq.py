"""No task queue: the time that RabbitMQ, the kernel and Celeriac's driver take by themselves.

A bare publish with its confirm is the upper bound for Celeriac's `delay()`. The bare round trip, through two durable
queues with a supervisor between RabbitMQ and a child, is the upper bound for its round trips.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from time import monotonic
from typing import Any

from pamqp import commands

from benchmarks.blocking_consumer import BlockingConsumer
from benchmarks.peers.echo import MOST, echoing_child
from benchmarks.peers.rabbitmq_peer import URL, RabbitMQPeer
from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.frames import Content, Publication, acknowledge, properties

BODY = b"x" * 200  # about a message's length
CALLS, ANSWERS = "calls", "answers"
CHANNEL = 1
SECONDS = 60.0


class Line:
    """A blocking connection that publishes to a durable queue or consumes from it."""

    def __init__(self, queue: str, consumes: bool = False) -> None:
        self._queue = queue
        self._connection = BlockingConsumer(Address.of(URL), SECONDS)
        self._connection.call(commands.Queue.Declare(queue=queue, durable=True), monotonic() + SECONDS)
        if consumes:
            self._connection.call(commands.Basic.Consume(queue=queue), monotonic() + SECONDS)

    def say(self, body: bytes) -> None:
        """Publish, and wait for the confirm."""
        self._connection.publish([Publication("", self._queue, properties(), body)], SECONDS)

    def hear(self) -> Content:
        """Return the next delivery."""
        return self._connection.hear(SECONDS)

    def acknowledge(self, content: Content) -> None:
        """Acknowledge a delivery."""
        self._connection.send(acknowledge(CHANNEL, content.tag, multiple=False))


class BareDriver(RabbitMQPeer):
    """Two queues with one connection each; for round trips, a worker of two processes."""

    title = "bare driver"
    module = "pamqp"
    packages = ("pamqp",)
    settings = (
        f"no task queue: {len(BODY)} bytes, durable, by the driver that Celeriac uses, each confirmed; round trips "
        "with a supervisor and a child that return what they receive: the upper bound of such a design"
    )
    queue = CALLS

    def __init__(self) -> None:
        self._calls = Line(CALLS)
        self._answers: Line | None = None

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for _ in arguments:
            self._calls.say(BODY)

    def roundtrip(self, timeout: float) -> Any:
        if self._answers is None:
            self._answers = Line(ANSWERS, consumes=True)
        self._calls.say(BODY)
        answer = self._answers.hear()
        self._answers.acknowledge(answer)
        return answer.body

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "benchmarks.peers.bare_driver_rabbitmq"]


def work() -> None:
    """Run the supervisor: pass each call to the child, publish the answer, and then acknowledge the call."""
    child = echoing_child()
    calls, answers = Line(CALLS, consumes=True), Line(ANSWERS)
    while True:
        call = calls.hear()
        child.send(call.body)
        answers.say(child.recv(MOST))
        calls.acknowledge(call)


PEER = BareDriver()

if __name__ == "__main__":
    work()
