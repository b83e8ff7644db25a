"""When the hub spins instead of sleeping, and how it carries out a request that comes alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count as counted
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from celeriac.drivers.zmq.frames import Request
from celeriac.hub import pace
from celeriac.hub.pace import ENOUGH, PAUSE_SECONDS, QUICK_SECONDS, TAKEN_SECONDS, Pace
from celeriac.hub.sessions import Job, Session
from celeriac.hub.turns import Turns
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC
from celeriac.model.message import Message
from tests.conformance.broker import message

LOOK_SECONDS = 1e-6  # what each reading of the clock takes in these tests
LONG = 1e9


class Hands:
    """A clock whose hands move a little at each look."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        self.now += LOOK_SECONDS
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=hands.monotonic))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    return hands


def note(pace: Pace, hands: Hands, turns: int = ENOUGH + 1, gap: float = QUICK_SECONDS / 2, count: int = 1,
         connections: int = 1) -> None:  # fmt: skip
    for number in range(turns):
        hands.now += gap
        pace.note(hands.now, count, b"%d" % (number % connections))


def comes_at(look: int) -> Iterator[bool]:
    yield from (number == look for number in counted(1))


def test_after_several_quick_single_requests_the_hub_looks_until_the_next_one_comes(hands: Hands) -> None:
    pace, looks = Pace(), comes_at(5)
    note(pace, hands)
    assert pace.finds(lambda: next(looks), LONG)
    assert next(looks) is False  # the fifth look was the last


@pytest.mark.parametrize(
    ("turns", "gap", "count", "connections"),
    [(ENOUGH, QUICK_SECONDS / 2, 1, 1), (ENOUGH * 2, QUICK_SECONDS * 2, 1, 1), (ENOUGH * 2, QUICK_SECONDS / 2, 2, 1),
     (ENOUGH * 2, QUICK_SECONDS / 2, 1, 2)],
    ids=["few", "slow", "several together", "from several connections"],
)  # fmt: skip
def test_the_hub_sleeps_at_once_where_spinning_is_not_worth_while(
    hands: Hands, turns: int, gap: float, count: int, connections: int
) -> None:
    pace = Pace()
    note(pace, hands, turns, gap, count, connections)
    assert not pace.finds(pytest.fail, LONG)


def test_the_hub_spins_for_so_long_as_the_next_request_would_be_quick_and_not_again_in_vain(hands: Hands) -> None:
    pace = Pace()
    note(pace, hands)
    end = hands.now + QUICK_SECONDS
    assert not pace.finds(lambda: False, LONG)
    assert hands.now == pytest.approx(end, abs=10 * LOOK_SECONDS)
    assert not pace.finds(pytest.fail, LONG)


def test_the_hub_spins_no_longer_than_until_it_has_something_else_to_do(hands: Hands) -> None:
    pace = Pace()
    note(pace, hands)
    until = hands.now + QUICK_SECONDS / 10
    assert not pace.finds(lambda: False, until)
    assert hands.now == pytest.approx(until, abs=10 * LOOK_SECONDS)


def test_once_another_process_has_taken_the_core_it_has_it_for_a_while(hands: Hands) -> None:
    pace = Pace()
    note(pace, hands)

    def is_there() -> bool:
        hands.now += 2 * TAKEN_SECONDS
        return False

    taken_at = hands.now
    assert not pace.finds(is_there, LONG)
    assert hands.now < taken_at + 3 * TAKEN_SECONDS
    note(pace, hands)
    assert not pace.finds(pytest.fail, LONG)
    hands.now += PAUSE_SECONDS
    note(pace, hands)
    assert pace.finds(lambda: True, LONG)


def test_on_a_single_core_the_hub_never_spins(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    pace = Pace()
    note(pace, hands)
    assert not pace.finds(pytest.fail, LONG)


def test_there_is_a_lone_caller_after_some_single_requests_and_until_several_come_together(hands: Hands) -> None:
    pace = Pace()
    note(pace, hands, ENOUGH, gap=1.0)
    assert not pace.is_single
    note(pace, hands, 1, gap=1.0)
    assert pace.is_single
    note(pace, hands, 1, count=2)
    assert not pace.is_single


def test_there_is_no_lone_caller_while_several_ask_in_turn(hands: Hands) -> None:
    pace = Pace()
    note(pace, hands, ENOUGH * 2, gap=1.0, connections=2)
    assert not pace.is_single


# --- A request that comes alone -----------------------------------------------------------------------


@pytest.fixture
def turns(tmp_path: Path) -> Iterator[Turns]:
    turns = Turns(str(tmp_path / "celeriac.db"), "normal", 10.0, Clock(), {"hub.clients": list})
    yield turns
    turns.close()


def publishing(*messages: Message) -> Job:
    session = Session("", 0.0)
    arguments = msgspec.Raw(msgspec.msgpack.encode(([PLAIN_CODEC.encode(one) for one in messages],)))
    return Job(b"\0peer", "", session, Request(bytes(16), 1, 1, False, "broker.publish", arguments))


def stored(turns: Turns) -> int:
    rows = turns.database.connection().execute("SELECT count(*) FROM messages").fetchone()
    return int(rows[0])


def test_a_message_that_comes_alone_is_stored_once_however_often_it_is_published(turns: Turns) -> None:
    first, second = message(), message()
    for one in (first, second, second):
        (answered,) = turns.run([publishing(one)], is_one=True)
        assert (answered.kind, answered.body) == ("", None)
    assert stored(turns) == 2
    assert not turns.database.connection().in_transaction


def test_a_message_that_comes_alone_goes_to_the_new_file_when_the_old_one_is_gone(
    turns: Turns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeriac.drivers.sqlite.database.IN_PLACE_SECONDS", 0.0)
    turns.run([publishing(message())], is_one=True)
    turns.run([publishing(message())], is_one=True)
    for file in tmp_path.glob("celeriac.db*"):
        file.unlink()
    job = publishing(message())
    assert turns.run([job], is_one=True) == [job]
    assert (job.kind, job.body) == ("", None)
    assert stored(turns) == 1
