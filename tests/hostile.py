"""Bytes that Celeriac does not write, by what is wrong with them: messages, outcomes, trees, control commands.

The corpus of directed cases of the gate's tests and of the conformance suites. Each stopped a worker once, or could.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

__all__ = ["BODIES", "COMMANDS", "MESSAGES", "OUTCOMES", "nested"]

_pack = msgspec.msgpack.encode


def nested(levels: int) -> bytes:
    """Return the msgpack of dicts within dicts. Python's own encoder would refuse so many."""
    return b"\x81\xa1a" * levels + b"\x01"


def _message(**fields: Any) -> bytes:
    return _pack({"id": "x", "task": "t", **fields})


def _with_headers(levels: int) -> bytes:
    return b"\x83\xa2id\xa1x\xa4task\xa1t\xa7headers" + nested(levels)


def _links(levels: int) -> bytes:
    head, tail = b"\x83\xa2id\xa1x\xa4task\xa1t\xa4link\x91\x81\xa7message", b"\x82\xa2id\xa1x\xa4task\xa1t"
    return head * levels + tail


MESSAGES: dict[str, bytes] = {
    "nothing": b"",
    "text": b"junk",
    "one byte": b"\xff",
    "a number as id": b"\x81\xa2id\x07",
    "no UTF-8": b"\x81\xa2id\xa1\xff",
    "no task": _pack({"id": "x"}),
    "an empty id": _message(id=""),
    "an empty task": _message(task=""),
    "an empty queue": _message(queue=""),
    "a long task": _message(task="t" * 2_000),
    "a long reply_to": _message(reply_to="r" * 300),
    "headers, 60 levels": _with_headers(60),
    "headers, 5,000 levels": _with_headers(5_000),
    "links, 60 levels": _links(60),
    "links, 5,000 levels": _links(5_000),
    "an unknown lane": _message(lane="zzz"),
    "a priority of 99": _message(priority=99),
    "a priority of 2**64-1": _message(priority=2**64 - 1),
    "an attempt of 0": _message(attempt=0),
    "due at NaN": _message(due_at=math.nan),
    "due at infinity": _message(due_at=math.inf),
    "expires at 1e300": _message(expires_at=1e300),
    "a negative time limit": _message(time_limit=-1.0),
    "a place before the first": _message(place=["W", -1]),
    "a join of -2": _message(place=["W", 0, -2]),
    "a place without a workflow": _message(place=["", 0]),
    "a link with an unknown lane": _message(link=[{"message": {"id": "y", "task": "t", "lane": "zzz"}}]),
    "a link that is due at NaN": _message(link=[{"message": {"id": "y", "task": "t", "due_at": math.nan}}]),
}

BODIES = (b"", b"junk", b"null", b'"ab"', b"[1,2]", b'["ab",{}]', b'[[1],"x"]', b"[[],[]]", b'{"a":1,"b":2}', b"[[1]]",
          b'[[{"$uuid":5}],{}]', b'[[1],{"x":' + b"[" * 2_000 + b"]" * 2_000 + b"}]")  # fmt: skip
"""Of messages that can be read: no list of arguments and those by name."""

OUTCOMES: dict[str, bytes] = {
    "nothing": b"",
    "text": b"junk",
    "no state": _pack({"id": "x", "task": "t"}),
    "done at NaN": _pack({"id": "x", "task": "t", "state": "SUCCESS", "done_at": math.nan}),
    "5,000 levels": b"\x81\xa9following" + b"\x91" * 5_000,
    "a place before the first": _pack({"id": "x", "task": "t", "state": "SUCCESS", "place": ["W", -1]}),
}

COMMANDS: dict[str, bytes] = {
    "nothing": b"",
    "text": b"junk",
    "no name": b"{}",
    "a list": b"[]",
    "a tagged value": b'{"$uuid":5}',
    "arguments, 60 levels": b'{"name":"ping","arguments":' + b'{"a":' * 60 + b"1" + b"}" * 61,
    "arguments, 100,000 levels": b'{"name":"ping","arguments":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "a channel that is not for replies": b'{"name":"ping","reply_to":"control"}',
    "2 MB": b'{"name":"ping","arguments":{"a":"' + b"x" * 2_000_000 + b'"}}',
}
