"""P8: with the broker down, `delay()` raises within the publish time-out, at every call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from celeriac import chord, group
from celeriac.errors import BackendError, BrokerUnavailable, ResultTimeout
from tests.patience import PATIENCE, in_time
from tests.promises.grounds import STORES, PairGround
from tests.promises.harness import Stage, on
from tests.promises.stores import PostgreSQLStore

TIMEOUT = 0.3  # seconds
LATE = 0.5  # seconds; what the rest of a call may add
LEAST = 2.0  # seconds; PostgreSQL's driver waits no shorter for a connection

CALLS: dict[str, Callable[[Any], Any]] = {
    "delay": lambda quick: quick.delay(1),
    "apply_async": lambda quick: quick.apply_async((1,), countdown=60),
    "delay_many": lambda quick: quick.delay_many([(number,) for number in range(100)]),
    "adelay": lambda quick: asyncio.run(quick.adelay(1)),
    "send_task": lambda quick: quick.app.send_task("elsewhere.task", (1,)),
    "group": lambda quick: group(quick.s(number) for number in range(3)).delay(),
    "revoke": lambda quick: quick.app.control.revoke("0000"),
}


def served(call: Callable[[], Any]) -> Any:
    """Return what a call gives while the broker is there; again, if a busy machine was slower than its time-out."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except (BrokerUnavailable, BackendError):
            if time.monotonic() > deadline:
                raise


@pytest.mark.parametrize(
    ("stage", "how", "words"),
    [("sqlite", "locked", "locked"), ("redis", "down", "cannot be reached"), ("redis", "frozen", "did not answer"),
     ("hub", "down", "no connection"), ("hub", "frozen", "did not answer")],
    indirect=["stage"],
)
@pytest.mark.parametrize("call", CALLS)
def test_a_broker_that_is_away_is_an_error_in_time_at_every_call_and_is_used_again_on_its_return(
    stage: Stage, how: str, words: str, call: str
) -> None:
    stage.app.conf.broker_publish_timeout = TIMEOUT
    quick = stage.victim.quick
    served(lambda: CALLS[call](quick))  # so that a connection is there, and is lost
    before = served(stage.counts)
    with stage.ground.away(how):
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=words):
                CALLS[call](quick)
            assert in_time(time.monotonic() - begun, TIMEOUT + LATE)
    if how != "frozen":  # what a frozen server was sent, it carries out when it wakes
        assert served(stage.counts) == before
    served(lambda: CALLS[call](quick))


@pytest.mark.parametrize("stage", ["redis"], indirect=True)
@pytest.mark.parametrize("how", ["down", "frozen"])
@pytest.mark.parametrize(
    "look",
    [lambda result: result.get(timeout=TIMEOUT), lambda result: asyncio.run(result.aget(timeout=TIMEOUT)),
     lambda result: result.state],
    ids=["get", "aget", "state"],
)  # fmt: skip
def test_reading_a_result_fails_in_time_while_the_backend_is_away(
    stage: Stage, how: str, look: Callable[[Any], Any]
) -> None:
    stage.app.conf.broker_publish_timeout = TIMEOUT
    result = served(lambda: stage.victim.quick.delay(1))
    with stage.ground.away(how):
        for _ in range(2):
            begun = time.monotonic()
            with pytest.raises((BrokerUnavailable, ResultTimeout)):
                look(result)
            assert in_time(time.monotonic() - begun, 2 * TIMEOUT + LATE)
    assert served(lambda: result.state) == "PENDING"


@pytest.mark.parametrize("stage", [on(name) for name in STORES], indirect=True)
@pytest.mark.parametrize("how", ["down", "frozen"])
def test_while_a_result_backend_on_another_server_is_away_tasks_are_sent_and_what_needs_it_fails_in_time(
    stage: Stage, how: str
) -> None:
    quick = stage.victim.quick
    stage.app.conf.broker_publish_timeout = TIMEOUT
    assert isinstance(stage.ground, PairGround)
    within = (LEAST if isinstance(stage.ground.store, PostgreSQLStore) else 2 * TIMEOUT) + LATE
    needing: list[Callable[[], Any]] = [
        lambda: result.get(timeout=TIMEOUT), lambda: asyncio.run(result.aget(timeout=TIMEOUT)), lambda: result.state,
        lambda: chord([quick.si(number).set(queue="other") for number in range(2)], quick.si(3)).delay(),
    ]  # fmt: skip
    result = served(lambda: quick.delay(1))
    served(lambda: result.state)
    with stage.store_away(how):
        for _ in range(2):
            for need in needing:
                begun = time.monotonic()
                with pytest.raises((BackendError, ResultTimeout)):
                    need()
                assert in_time(time.monotonic() - begun, within)
            begun = time.monotonic()
            served(lambda: quick.delay(1))
            assert in_time(time.monotonic() - begun, TIMEOUT + LATE)
    queues = served(lambda: asyncio.run(stage.inspector().queues()))
    assert {counts.queue: counts.ready for counts in queues}.get("other", 0) == 0  # nothing of what was not stored
    assert served(lambda: result.state) == "PENDING"


@pytest.mark.parametrize("stage", ["sqlite"], indirect=True)
def test_a_database_that_cannot_be_created_is_an_error_at_every_call(stage: Stage) -> None:
    stage.app.conf.broker_url = "sqlite:////nowhere/at/all.db"
    for _ in range(3):
        with pytest.raises(BrokerUnavailable, match="folder"):
            stage.victim.quick.delay(1)
