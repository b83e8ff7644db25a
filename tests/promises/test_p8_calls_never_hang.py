"""P8: with the broker down, `delay()` raises within the publish time-out, at every call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from celeriac import group
from celeriac.errors import BrokerUnavailable
from tests.promises.harness import Stage

TIMEOUT = 0.5

CALLS: dict[str, Callable[[Any], Any]] = {
    "delay": lambda quick: quick.delay(1),
    "apply_async": lambda quick: quick.apply_async((1,), countdown=60),
    "delay_many": lambda quick: quick.delay_many([(number,) for number in range(100)]),
    "adelay": lambda quick: asyncio.run(quick.adelay(1)),
    "send_task": lambda quick: quick.app.send_task("elsewhere.task", (1,)),
    "group": lambda quick: group(quick.s(number) for number in range(3)).delay(),
    "revoke": lambda quick: quick.app.control.revoke("0000"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_locked_database_is_an_error_in_time_at_every_call_and_a_free_one_is_used_again(
    stage: Stage, call: str
) -> None:
    stage.app.conf.broker_publish_timeout = TIMEOUT
    quick = stage.victim.quick
    with stage.locked():
        for _ in range(3):
            begun = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="locked"):
                CALLS[call](quick)
            assert time.monotonic() - begun < TIMEOUT + 0.5
    assert stage.rows("SELECT count(*) FROM messages") == [(0,)]
    CALLS[call](quick)


def test_a_database_that_cannot_be_created_is_an_error_at_every_call(stage: Stage) -> None:
    stage.app.conf.broker_url = "sqlite:////nowhere/at/all.db"
    for _ in range(3):
        with pytest.raises(BrokerUnavailable, match="folder"):
            stage.victim.quick.delay(1)
