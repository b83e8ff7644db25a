"""Durations on RabbitMQ pass by the server's time, whatever the clocks of callers and workers say."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from celeriac import Celeriac, states
from celeriac.brokers.amqp.broker import AmqpBroker
from celeriac.brokers.queue_server.intake import EARLY_SECONDS
from celeriac.brokers.queue_server.lease import QueueServerLease
from celeriac.model.clock import Clock
from celeriac.model.outcome import Outcome
from celeriac.ports.broker import Delivery, Settlement
from celeriac.worker.decide import Ending, decide
from tests.conformance.broker import LONG, PROMPTLY, message, receive
from tests.endings import returned
from tests.patience import PATIENCE
from tests.rabbitmq_server import Place, die
from tests.test_rabbitmq import lease_on

OFF = 3600.0  # seconds: more than any wait of a test


class WrongClock(Clock):
    """The machine's clock, and wrong."""

    def __init__(self, off: float) -> None:
        self._off = off

    def now(self) -> float:  # type: ignore[override]
        return time.time() + self._off


def with_clock(place: Place, off: float, **options: Any) -> AmqpBroker:
    return AmqpBroker(place.server(**options), WrongClock(off))


async def arrival(lease: QueueServerLease) -> tuple[Delivery, float]:
    """Return the next delivery, and when it came (by the monotonic clock)."""
    async with asyncio.timeout(PROMPTLY):
        while not (got := await receive(lease, 1, wait=LONG)):
            pass
    return got[0], time.monotonic()


async def finished(lease: QueueServerLease, delivery: Delivery) -> None:
    """Leave nothing for the next round of a test, which takes the same vhost: the queues of delays are costly."""
    assert await lease.settle([Settlement(delivery=delivery)]) == [True]
    await lease.end()


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_a_countdown_passes_by_the_clock_of_the_server(place: Place, queue_type: str) -> None:
    app = Celeriac("t", broker_url=place.url, amqp_queue_type=queue_type, environ={}, broker_publish_timeout=PATIENCE)
    for off in (OFF, -OFF):
        started = time.monotonic()
        await app.asend_task("t", countdown=1.5)
        lease = await lease_on(with_clock(place, off, queue_type=queue_type))
        delivery, came = await arrival(lease)
        assert came - started > 1.4, off
        assert delivery.deliveries == 1
        await finished(lease, delivery)
    app.close()


@pytest.mark.parametrize("off", [OFF, -OFF])
async def test_what_a_worker_returns_is_due_by_the_clock_of_the_server(place: Place, off: float) -> None:
    broker, other = with_clock(place, off), with_clock(place, -off)
    for how, delay in (("unknown", 1.0), ("retry", 1.5), ("requeue", 1.0), ("rate", 1.5)):
        broker.publish([message(countdown=0.1, due_at=time.time() + off + 0.1)])
        lease, now = await lease_on(broker), time.time() + off
        delivery, _ = await arrival(lease)
        ending = returned(how, delivery, now, delay)
        started = time.monotonic()
        assert await lease.settle([decide(ending, now, 3, 1e9)]) == [True]
        await lease.end()
        lease = await lease_on(other)
        again, came = await arrival(lease)
        assert again.message.id == delivery.message.id
        assert came - started > delay - 0.1, how
        await finished(lease, again)


async def test_a_message_that_has_waited_does_not_wait_again_when_it_goes_back(place: Place) -> None:
    """A worker whose clock is behind gets it, dies or stops: the next one gets it at once."""
    slow = with_clock(place, -OFF)
    place.broker().publish([message(countdown=0.5, due_at=time.time() + 0.5)])
    lease = await lease_on(slow)
    first, _ = await arrival(lease)
    assert await lease.settle([decide(Ending(delivery=first, given_back=True), time.time() - OFF, 3, 1e9)]) == [True]
    await arrival(lease)
    await lease.end()
    lease = await lease_on(slow)
    await arrival(lease)
    await die(lease)
    again, _ = await arrival(await lease_on(slow))
    assert again.message.id == first.message.id


async def test_a_replacement_with_a_countdown_waits_for_it(place: Place) -> None:
    broker = with_clock(place, -OFF)
    broker.publish([message()])
    lease = await lease_on(broker)
    delivery, _ = await arrival(lease)
    id, now = delivery.message.id, time.time() - OFF
    instead = message(id=id, countdown=1.5, due_at=now + 1.5)
    outcome = Outcome(id=id, task="t", state=states.REPLACED, following=[instead])
    started = time.monotonic()
    assert await lease.settle([decide(Ending(delivery=delivery, outcome=outcome), now, 3, 1e9)]) == [True]
    _, came = await arrival(lease)
    assert came - started > 1.4


async def test_a_countdown_that_is_longer_than_the_server_counts_is_waited_for_in_parts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.brokers.amqp.topology.DIGITS", 2)  # it counts to 0.75 s
    started = time.monotonic()
    place.broker().publish([message(countdown=2.5, due_at=time.time() + 2.5)])
    delivery, came = await arrival(await lease_on(with_clock(place, OFF)))
    assert came - started > 2.4
    assert delivery.deliveries == 1


async def test_an_eta_is_an_instant(place: Place) -> None:
    """It is not started before, or hardly, by the clocks of both the caller and the worker."""
    due, behind = time.time() + 1.0, 2.0
    place.broker().publish([message(due_at=due)])
    delivery, _ = await arrival(await lease_on(with_clock(place, -behind)))
    assert time.time() - behind > due - EARLY_SECONDS
    assert delivery.message.countdown is None
