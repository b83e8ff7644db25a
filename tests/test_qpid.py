"""Qpid Broker-J by AMQP 0-9-1: its dialect.

No Broker-J runs here. `CELERIAC_TEST_QPID_URL` names one for the conformance tests (test_brokers.py).
"""

from __future__ import annotations

import time
from typing import Any

import pytest
from pamqp import commands

from celeriac.brokers.amqp import AmqpBroker
from celeriac.brokers.amqp.channel_window import ChannelWindow
from celeriac.brokers.amqp.topology import AmqpTopology
from celeriac.brokers.amqp.transport import post
from celeriac.brokers.queue_server.envelope import Envelope
from celeriac.brokers.queue_server.topology import Line
from celeriac.drivers.amqp.address import Address
from celeriac.drivers.amqp.confirms import Confirms
from celeriac.drivers.amqp.dialect import BROKER_J, RABBITMQ, dialect_of
from celeriac.drivers.amqp.error_translation import channel_closed
from celeriac.drivers.amqp.frames import RETURN, Confirmed, Content, Method, Publication, properties
from celeriac.drivers.amqp.opening import Facts, opening
from celeriac.drivers.amqp.server import Server
from celeriac.errors import BrokerMisconfigured
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC
from celeriac.model.message import PLAIN, Message, new_id
from celeriac.ports.broker import Settlement
from celeriac.ports.operations import WorkerInfo
from tests.patience import PATIENCE
from tests.qpid_server import PROPERTIES, pretend
from tests.rabbitmq_server import Place

KNOWN = {"x-qpid-priorities", "x-single-active-consumer", "qpid.lifetime_policy", "holdOnPublishEnabled"}
"""Arguments of queues that Broker-J takes (`QueueArgumentsConverter` in its source); it refuses the others."""


def message(**options: Any) -> Message:
    return Message(id=new_id(), task="t", body=b"[]", **options)


# --- Who it is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "dialect"),
    [
        (PROPERTIES, BROKER_J),
        ({"product": "Apache Qpid Broker-J", "version": "9"}, BROKER_J),
        ({"product": "something", "qpid.build": "1"}, BROKER_J),
        ({"product": "RabbitMQ", "version": "4.0.1", "capabilities": {}}, RABBITMQ),
        ({}, RABBITMQ),
    ],
)
def test_a_server_is_known_by_what_it_says_of_itself(said: dict[str, Any], dialect: object) -> None:
    assert dialect_of(said) == dialect


def test_a_connection_to_broker_j_has_confirms_without_trying_them() -> None:
    steps = opening(Address.of("amqp://localhost"), 30, "test")
    next(steps)
    start = commands.Connection.Start(0, 9, PROPERTIES, "PLAIN SCRAM-SHA-256", "en_US")
    steps.send(Method(0, start))
    steps.send(Method(0, commands.Connection.Tune(256, 65535, 0)))
    with pytest.raises(StopIteration) as end:
        steps.send(Method(0, commands.Connection.OpenOk()))
    facts: Facts = end.value.value
    assert (facts.dialect, facts.confirms, facts.has_quorum, facts.prefers_quorum) == (BROKER_J, True, False, False)


def test_errors_name_broker_j_and_advise_none_of_rabbitmqs_commands() -> None:
    steps = opening(Address.of("amqp://localhost/shop"), 30, "test")
    next(steps)
    steps.send(Method(0, commands.Connection.Start(0, 9, PROPERTIES, "PLAIN", "en_US")))
    steps.send(Method(0, commands.Connection.Tune(256, 65535, 0)))
    with pytest.raises(BrokerMisconfigured, match=r"^Qpid Broker-J at .* refuses the vhost 'shop'") as no_vhost:
        steps.send(Method(0, commands.Connection.Close(530, "no such host", 0, 0)))
    server = Server("amqp://localhost")
    server._know(Facts("qpid", "9.2.0", BROKER_J))
    told = [
        str(no_vhost.value),
        *[str(channel_closed(code, text, BROKER_J)) for code, text in ((403, "refused"), (406, "larger than 1"))],
        *[str(server.unavailable(error, 1.0, why)) for error, why in (
            (OSError("refused"), ""), (TimeoutError(), ""), (TimeoutError(), "disk"))],
    ]  # fmt: skip
    assert all(text.startswith("Qpid Broker-J ") for text in told)
    assert not [text for text in told if "rabbitmq" in text.lower()]


def test_another_server_is_named_as_it_names_itself() -> None:
    dialect = dialect_of({"product": "LavinMQ", "version": "2.0"})
    assert str(channel_closed(403, "refused", dialect)).startswith("LavinMQ refused a request")
    assert dialect.of_lines == RABBITMQ.of_lines


# --- Queues -------------------------------------------------------------------------------------------


def test_queues_have_only_arguments_that_broker_j_knows() -> None:
    topology = AmqpTopology("p", quorum=False, dialect=BROKER_J)
    line = topology.declare(Line("q", PLAIN, None))
    made = [*line, *topology.declare_journal("c"), *topology.declare_presence(), topology.declare_dead("q")]
    arguments = [one.arguments or {} for one in made if isinstance(one, commands.Queue.Declare)]
    assert len(arguments) == 4
    assert {name for table in (*arguments, BROKER_J.of_replies) for name in table} <= KNOWN
    assert len(line) == 1  # nothing leads to it but its name
    assert not topology.declare_delays()
    assert not topology.delay_queues()


def test_a_delayed_message_says_until_when_it_is_to_be_held() -> None:
    topology = AmqpTopology("p", quorum=False, dialect=BROKER_J)
    now = time.time()
    later = Envelope(message(due_at=now + 60, priority=7), 0, False, None)
    posted = post(later, topology, topology.line_of(later.message), now, PLAIN_CODEC)
    assert (posted.exchange, posted.routing_key) == ("", "default")
    held = Content(kind=RETURN, channel=1, properties=posted.properties).headers()["x-qpid-not-valid-before"]
    assert now + 59 < held / 1000 < time.time() + 61


# --- Confirms -----------------------------------------------------------------------------------------


def test_what_is_refused_and_then_returned_counts_as_returned_once() -> None:
    confirms = Confirms(refusal_is_return=True)
    items = [Publication("", key, properties(), b"x") for key in ("here", "nowhere")]
    batch = confirms.sent(items)
    confirms.confirmed(Confirmed(1, 1, multiple=False, good=True))
    confirms.confirmed(Confirmed(1, 2, multiple=False, good=False))
    confirms.returned(Content(kind=RETURN, channel=1, routing_key="nowhere", body=b"x"))
    assert (batch.left, batch.returned, batch.refused) == (0, [items[1]], [])


def test_a_late_return_does_not_count_against_the_same_message_sent_again() -> None:
    confirms = Confirms(refusal_is_return=True)
    item = Publication("", "q", properties(), b"x")
    confirms.sent([item])
    confirms.confirmed(Confirmed(1, 1, multiple=False, good=False))
    again = confirms.sent([item])
    confirms.returned(Content(kind=RETURN, channel=1, routing_key="q", body=b"x"))
    confirms.confirmed(Confirmed(1, 2, multiple=False, good=True))
    assert (again.left, again.returned) == (0, [])


# --- The window of a channel --------------------------------------------------------------------------


def test_a_channels_window_has_room_for_all_consumers_and_for_what_ended_ones_hold() -> None:
    asked: list[int] = []
    window = ChannelWindow(asked.append)
    window.open("a#1", 4)
    window.open("b#1", 2)
    for tag in (1, 2, 3):
        window.pushed(tag, "a#1")
    window.close("a#1")
    window.open("a#2", 1)
    assert (window.held("a"), window.held("b")) == (3, 0)
    window.settled([1, 2, 3])
    window.close("b#1")
    window.close("a#2")
    assert asked == [4, 6, 5, 6, 3, 1]  # never 0, which would be no limit


# --- The same road, on a server that is at hand -------------------------------------------------------


@pytest.fixture
def broker(place: Place, monkeypatch: pytest.MonkeyPatch) -> AmqpBroker:
    pretend(monkeypatch)
    return AmqpBroker(Server(place.url, queue_type="classic", timeout=PATIENCE), Clock())


async def test_in_its_dialect_messages_are_sent_received_settled_and_put_back(broker: AmqpBroker) -> None:
    await broker.apublish([message(priority=priority) for priority in (3, 5, 9)] + [message(queue="other")])
    lease = await broker.lease(WorkerInfo(name="w"), 60.0, 3)
    found = await lease.receive(["default", "other"], {PLAIN: 4}, PATIENCE)
    while len(found) < 4:
        found += await lease.receive(["default", "other"], {PLAIN: 4 - len(found)}, PATIENCE)
    assert sorted(one.message.queue for one in found) == ["default"] * 3 + ["other"]
    assert await lease.settle([Settlement(delivery=one) for one in found[:3]]) == [True] * 3
    await lease.end()
    other = await broker.lease(WorkerInfo(name="v"), 60.0, 3)
    [again] = await other.receive(["default", "other"], {PLAIN: 4}, PATIENCE)
    assert again.message.id == found[3].message.id
    await other.settle([Settlement(delivery=again)])
    await other.end()
    broker.close()


def test_in_its_dialect_the_broker_is_named_and_a_store_is_preferred_for_delays(broker: AmqpBroker) -> None:
    broker.publish([message()])
    assert str(broker.transport).startswith("Qpid Broker-J at ")
    assert broker.transport.holds_delayed.value == "unsafely"
    broker.close()
