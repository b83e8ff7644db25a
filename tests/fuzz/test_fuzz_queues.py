"""What is in the queues of a STOMP or AMQP 1.0 server stops no worker: hostile bodies, headers, sections and types.

Another program has put it there, by the server's own protocol: in the queue of tasks, in that of dead letters, in the
journal, and where the workers are counted.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from proton import UNDESCRIBED, Array, Data, Described, Message, ProtonException, byte, symbol, timestamp, ubyte, ulong

from celeriac import Celeriac
from celeriac.app.control import COMMANDS as CHANNEL
from celeriac.brokers.queue_server import presence
from celeriac.drivers.amqp10.connection import Item
from celeriac.drivers.amqp10.server import Server as AmqpServer
from celeriac.drivers.stomp.frames import Publication, headers
from celeriac.drivers.stomp.server import Server as StompServer
from celeriac.errors import BrokerError
from tests.fuzz.feeding import feed, shop_on, show, worker_here
from tests.fuzz.message_servers import kinds, url_of
from tests.fuzz.mutations import Mutator
from tests.hostile import BODIES, COMMANDS, MESSAGES
from tests.patience import PATIENCE

FEW = 25  # inputs in `make test`
SHORT = 0.02  # seconds that commands wait for workers which do not exist
GOOD = {"id": "x", "task": "shop.none", "queue": "default", "lane": "plain", "priority": 5}
CORPUS = (*MESSAGES.values(), *[data for data in COMMANDS.values() if len(data) < 10_000], b"mark " + b"9" * 5_000,
          b"mark 1 x", b"mark")  # fmt: skip
TEXTS = ("", "x", "true", "false", "-1", "9" * 30, "9" * 5_000, "nan", "a:b\n\\c", "é", "\x1b[2J", "null", "0x10",
         "1e400")  # fmt: skip
NAMES = ("priority", "expires", "persistent", "redelivered", "ack", "message-id", "subscription", "browser", "worker",
         "line", "trial", "content-type", "correlation-id", "timestamp", "type", "x", "JMSXGroupID", "transformation",
         "amqp-message-id", "x-delay", "reply-to")  # fmt: skip
NO_TYPE: Any = (UNDESCRIBED, Data.SYMBOL)
VALUES: Sequence[Any] = (
    None, True, 0, -1, 5, 2**31 - 1, 0.5, math.nan, math.inf, "", "x", "\0", "é" * 400, b"", b"\xff\0", [],
    [1, [2, [3]]], {}, {"a": {"b": None}}, {1: 2}, symbol("s"), ulong(2**64 - 1), ubyte(255), byte(-128), timestamp(-1),
    timestamp(2**60), uuid.UUID(int=5), Described(symbol("celeriac"), "x"), Described(ulong(0x24), []),
    Described(ulong(0x75), b"x"), Array(*NO_TYPE, symbol("a"), symbol("b")), [Described(ulong(7), {})] * 3,
)  # fmt: skip


class Place(NamedTuple):
    """Where messages go: an address, and headers without which a server would make another queue of it."""

    address: str
    marks: Mapping[str, str] = {}


class StompWriter:
    """Sends by STOMP."""

    def __init__(self, url: str, random: Random) -> None:
        self._server = StompServer(url)
        self._random = random

    def send(self, place: Place, body: bytes) -> None:
        """Send a body with hostile headers to a destination."""
        choose = self._random.choice
        items = {choose(NAMES): choose(TEXTS) for _ in range(self._random.randrange(3))}
        self._server.do(lambda: self._sending(place, items, body))

    def _sending(self, place: Place, items: dict[str, str], body: bytes) -> Generator[Any, Any, None]:
        if self._server.facts.dialect.product == "RabbitMQ":
            items.pop("priority", None)  # a negative one ends its queue
        yield [Publication(place.address, headers(items | place.marks), body)]

    def close(self) -> None:
        self._server.close()


class AmqpWriter:
    """Sends by AMQP 1.0."""

    def __init__(self, url: str, random: Random) -> None:
        self._server = AmqpServer(url)
        self._random = random

    def send(self, place: Place, body: bytes) -> None:
        """Send a message with hostile sections, and this body or another one, to an address."""
        self._server.do(lambda: (yield [Item(self._server.dialect.queue(place.address), self._message(body))]))

    def _message(self, body: bytes) -> bytes:
        choose, chance = self._random.choice, self._random.random
        made = Message(body if chance() < 0.6 else choose(VALUES), inferred=chance() < 0.7)
        made.priority, made.durable, made.ttl = self._random.randrange(256), chance() < 0.5, choose((0, 1e6, 4e6))
        made.subject = choose((None, "", "x" * 300, "\x1b[2J"))
        with suppress(ProtonException, TypeError, ValueError):
            made.id, made.correlation_id = choose((None, 5, "x", b"x", uuid.UUID(int=1))), choose((None, 1, b""))
        if chance() < 0.5:
            made.properties = {choose(TEXTS): choose((None, 1, "x", True, 0.5)) for _ in range(2)}
        if chance() < 0.5:
            made.annotations = {symbol(f"x-opt-{choose('abc')}"): choose(VALUES)}
        try:
            return made.encode()
        except (ProtonException, TypeError, ValueError, OverflowError):
            return Message(body, inferred=True).encode()

    def close(self) -> None:
        self._server.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("kind", kinds(metafunc.config))


def test_what_is_in_a_queue_stops_no_worker(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, seed: int, count: int, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(presence, "ANSWER_SECONDS", SHORT)  # hostile messages are counted as workers, and never answer
    caplog.set_level(logging.CRITICAL, "celeriac")  # records of errors that are kept would count as growth
    url, random, mutator = url_of(kind, request), Random(seed), Mutator(seed)
    app = shop_on(url, f"sqlite:///{tmp_path}/results.db")
    by_stomp = kind.startswith("stomp")
    writer: Any = (StompWriter if by_stomp else AmqpWriter)(url, random)

    def write(number: int) -> None:
        body = mutator.make({**GOOD, "body": random.choice(BODIES)}, CORPUS)
        body = b"\0" + body if random.random() < 0.7 else body
        with suppress(BrokerError):  # the server may refuse it
            writer.send(random.choice(found), body)

    with worker_here(app) as process:
        assert app.tasks["shop.add"].delay(1, 2).get(timeout=PATIENCE) == 3
        found = places(app, by_stomp)
        feed(app, process, count, write, lambda number: show(app))
    writer.close()
    app.close()
    wrong = [record for record in caplog.records if record.levelno > logging.ERROR or record.name == "asyncio"]
    assert not wrong, wrong


def places(app: Celeriac, by_stomp: bool) -> list[Place]:
    """Return where hostile messages go: most of them to the queue of tasks."""
    topology = app.broker.transport.topology  # type: ignore[attr-defined]
    if not by_stomp:
        default = Place("default")
        return [default, default, default, Place(topology.dead("default")), Place(topology.journal)]
    dialect = topology.dialect
    default = Place(dialect.queue("default"), dialect.of_lines)
    return [default, default, default, Place(dialect.queue(topology.dead("default")), dialect.of_lines),
            Place(topology.journal, dialect.of_journal), Place(topology.workers), Place(topology.topic(CHANNEL)),
            Place(topology.topic(presence.CHANNEL))]  # fmt: skip
