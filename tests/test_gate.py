"""The gate: bytes that Celeriac does not write are refused with `Unreadable`, whatever they are."""

from __future__ import annotations

import math
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from celeriac import states
from celeriac.app.control import Command, Reply, encode, read_command, read_reply
from celeriac.canvas.tree import Join, Step, Tree, decode_tree
from celeriac.drivers.redis.outcomes import announced
from celeriac.errors import DecodeError
from celeriac.model.codec import PLAIN_CODEC
from celeriac.model.gate import DEEPEST, Unreadable, check_nesting, reader
from celeriac.model.message import Link, Message, Place, decode
from celeriac.model.message import encode as encode_message
from celeriac.model.options import rate
from celeriac.model.outcome import Outcome, decode_outcome, encode_outcome
from celeriac.ports.operations import read_dead, read_worker
from tests.hostile import COMMANDS, MESSAGES, OUTCOMES

RAW = msgspec.Raw(encode_message(Message(id="", task="")))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_celeriac_does_not_write_is_refused(name: str) -> None:
    with pytest.raises(Unreadable):
        decode(MESSAGES[name])


def test_a_message_at_its_bounds_is_read() -> None:
    inner = Message(id="y", task="t", headers={"h": 1})
    for _ in range(DEEPEST):
        inner = Message(id="y", task="t", link=[Link(inner)])
    headers: dict[str, object] = {}
    for _ in range(DEEPEST - 1):
        headers = {"a": headers}
    sent = Message(
        id="i" * 1000, task="t", priority=9, lane="coroutine", due_at=0.0, expires_at=2.5e11, time_limit=4e10,
        reply_to="r" * 255, headers=headers, link=inner.link, place=Place("w", 0, 0), max_retries=2**63 - 1,
    )  # fmt: skip
    assert decode(encode_message(sent)) == sent


def test_a_time_limit_of_0_of_an_earlier_version_is_read_as_none() -> None:
    sent = Message(id="i", task="t", time_limit=0.0, soft_time_limit=0.0)
    assert decode(encode_message(sent)) == Message(id="i", task="t")
    assert decode(encode_message(replace(sent, time_limit=2.0))) == Message(id="i", task="t", time_limit=2.0)


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_unreadable_outcome_is_a_failure_that_says_so(name: str) -> None:
    with pytest.raises(Unreadable):
        decode_outcome(OUTCOMES[name])
    found = PLAIN_CODEC.read_outcome("x", OUTCOMES[name])
    assert (found.id, found.task, found.state) == ("x", "(unreadable)", states.FAILURE)
    error = found.exception()
    assert isinstance(error, DecodeError)
    assert "stored outcome of the task x is unreadable" in str(error)


def test_a_readable_outcome_is_read_as_it_was() -> None:
    outcome = Outcome(id="x", task="t", state="SUCCESS", value=b"1", done_at=1.5, place=Place("w", 3, 1))
    assert PLAIN_CODEC.read_outcome("x", memoryview(encode_outcome(outcome))) == outcome


@pytest.mark.parametrize("name", COMMANDS)
def test_a_control_command_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(Unreadable):
        read_command(COMMANDS[name])


def test_commands_and_replies_are_read_as_they_were() -> None:
    command = Command("ping", {"a": [1, {"b": None}]}, ["w"], "reply.x")
    assert read_command(encode(command)) == command
    assert read_reply(encode(Reply("w", {"ok": "pong"}))) == Reply("w", {"ok": "pong"})


@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (decode, decode_outcome, decode_tree, read_command, read_reply, read_dead, read_worker):
        with suppress(Unreadable):
            read(data)


@given(st.binary(max_size=300))
def test_a_payload_of_ended_tasks_is_read_to_its_end_or_to_what_is_wrong(data: bytes) -> None:
    assert all(isinstance(id, str) for id, _ in announced(data))


@pytest.mark.parametrize("payload", [b"1\0a-6\0", b"-1\0", b"9" * 5_000 + b"\0", b"1\0a5", b"\0", b"1\0\xff\0"])
def test_a_payload_that_no_script_sends_ends_the_reading(payload: bytes) -> None:
    good = b"1\0a3\0" + b"1xx"
    found = list(announced(good + payload))
    assert found[0] == ("a", b"1xx")


def test_too_many_bytes_are_refused_before_they_are_decoded() -> None:
    read = reader(Message, "a message", largest=10)
    with pytest.raises(Unreadable, match="bytes are too many for a message"):
        read(b"\xff" * 11)


def test_nesting_is_measured_without_recursion() -> None:
    deep: list[object] = []
    for _ in range(1_000_000):
        deep = [deep]
    with pytest.raises(Unreadable, match="nested deeper than 50 levels"):
        check_nesting(deep, "values")
    while deep:  # freed level by level: the interpreter would recurse
        deep = deep.pop()  # type: ignore[assignment]


def tree(*nodes: Step | Join, end: int = 0) -> bytes:
    return Tree("w", "w", list(nodes), end).encode()


@pytest.mark.parametrize(
    "data",
    [
        tree(Step("a", "t", RAW, source=0)),  # it follows itself
        tree(Step("a", "t", RAW, source=1), Step("b", "t", RAW, source=0)),  # a cycle of sources
        tree(Step("a", "t", RAW, source=7)),  # a node that is missing
        tree(Step("a", "t", RAW, join=0)),  # its own member
        tree(Step("a", "t", RAW), Step("b", "t", RAW, join=0)),  # a member of a step
        tree(Join("g", [0])),  # a member of itself
        tree(Join("g", [5])),  # a member that is missing
        tree(Join("g", [-1])),
        tree(Join("g", [1]), Join("h", [2], join=0), Join("k", [], join=1, source=0)),  # its result contains itself
        tree(Step("a", "t", RAW), end=3),
        tree(Step("a", "t", RAW, countdown=math.nan)),
        b"junk",
    ],
)
def test_a_tree_with_a_cycle_or_a_missing_node_is_refused(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode_tree(data)


def test_a_step_with_an_unreadable_message_is_refused_when_it_is_needed() -> None:
    found = decode_tree(tree(Step("a", "t", msgspec.Raw(b"\x81\xa4lane\xa3zzz"))))
    with pytest.raises(Unreadable):
        _ = found.step(0).message


@pytest.mark.parametrize("limit", ["1" + " " * 200_000 + "x", "1/" + " " * 200_000 + "x", " " * 200_000, "1" * 200_000])
def test_a_long_rate_limit_is_refused_at_once(limit: str) -> None:
    with pytest.raises(ValueError, match="rate_limit must be"):
        rate(limit)
