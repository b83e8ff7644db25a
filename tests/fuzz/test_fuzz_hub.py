"""A hub stands whatever clients send: bytes that are no ZeroMQ, frames that are none, requests with hostile fields.

A client without a key gets no further than bytes, if the hub has keys; one with a valid key may send all of it. After
every 25 inputs an honest client finds what it left there, and a task runs on a worker of the hub.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from celeriac.app.control import COMMANDS as CHANNEL
from celeriac.drivers.zmq.address import Address
from celeriac.drivers.zmq.frames import Request, encode_request
from celeriac.drivers.zmq.verbs import VERBS
from celeriac.model.message import PLAIN, encode
from tests.conformance.broker import message
from tests.fuzz.feeding import feed, shop_on, show, worker_here
from tests.fuzz.mutations import Mutator
from tests.fuzz.typed import Typed
from tests.hostile import COMMANDS, MESSAGES, OUTCOMES
from tests.hub_server import HubServer
from tests.patience import PATIENCE
from tests.test_hub import SESSION, dealer, heard, say, with_keys

FEW = 50  # inputs in `make test`

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "broker.publish": ([encode(message(queue="other"))],), "leases.receive": (1, 1, [], ["nowhere"], {PLAIN: 5}, 0.0),
    "leases.settle": (1, [["1:1:1:4:5", "acknowledge", None, [], None, False, None, 0, ""]]),
    "operations.rewrite": ({"a": [b"x", b"y"]}, ["ready"]), "backend.store": ([b"\x83\xa2id\xa1a"],),
    "schedules.change": ([[["a", b"", 1, None], ["a", b"x", 1, 5], [], []]],), "history.get": ([[1] * 8],),
}  # fmt: skip
TEXTS = ("", "a", "other", "nowhere", "\0", "a\nb", "\x1b[2J", "é" * 400, "t" * 2_000, "1:1:1:4:5", "2:-1:1:4:5",
         "x" * 36,
         PLAIN, "coroutine", "ready", "scheduled", "dead", "acknowledge", "return", "SUCCESS", CHANNEL)  # fmt: skip
"""Not the queue of the good tasks: whoever has a key may take what is in it."""
DATA = (b"", b"\xc1\x01", b"\xc1\x03\xff\xff\xff\xff", b"{}", b"[]", encode(message(queue="other")), *MESSAGES.values(),
        *OUTCOMES.values(), *[data for data in COMMANDS.values() if len(data) < 10_000])  # fmt: skip
GREETING = b"\xff" + b"\0" * 8 + b"\x7f\x03\x01%b" + b"\0" * 32
READY = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
HELLO = b"\x04\xc8\x05HELLO\x01\0" + b"\0" * 72 + b"k" * 32 + b"\0" * 8 + b"s" * 80
CURVE, NULL = (GREETING % name.ljust(20, b"\0") for name in (b"CURVE", b"NULL"))
STREAMS = (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, NULL, CURVE, NULL + READY, CURVE + HELLO, CURVE + READY,
           NULL + READY + b"\0\x04CLRZ", NULL + READY + b"\x02\x7f" + b"\xff" * 7, NULL + READY + b"\x01\0" * 50,
           NULL + READY + b"\0\xff" + b"CLRZ\x01" + b"\x96" * 250)  # fmt: skip


@pytest.fixture(params=["open", "locked"])
def hub(request: pytest.FixtureRequest) -> HubServer:
    found: HubServer = request.getfixturevalue("locked" if request.param == "locked" else "hub_on_time")
    found.emptied()
    return found


def url_of(hub: HubServer) -> str:
    return with_keys(hub, "web") if (hub.folder / "keys").exists() else hub.url


@contextmanager
def client(hub: HubServer) -> Iterator[zmq.Socket[bytes]]:
    """A client that says what it wants; with a key that is valid, if one is needed."""
    address = Address.of(url_of(hub))
    with dealer(hub) as plain, zmq.Context() as context, context.socket(zmq.DEALER) as made:
        if not address.server_key:
            yield plain
            return
        made.linger, made.rcvtimeo = 0, int(PATIENCE * 1000)
        made.curve_publickey, made.curve_secretkey = address.public_key, address.secret_key
        made.curve_serverkey = address.server_key
        made.connect(hub.bind)
        yield made


@pytest.mark.parametrize("surface", ["bytes", "a frame", "arguments", "fields"])
def test_a_hub_stands_whatever_comes(hub: HubServer, surface: str, seed: int, count: int) -> None:
    random, mutator, typed = Random(seed), Mutator(seed), Typed(seed, TEXTS, DATA)
    app, kept = shop_on(url_of(hub)), message("kept")
    SESSION[:] = random.randbytes(16)
    assert hub.process is not None

    def frame(number: int) -> bytes:
        verb = random.choice([*ARGUMENTS, *VERBS])
        if surface == "fields":
            arguments = typed.data(VERBS[verb].arguments)
        else:
            arguments = msgspec.msgpack.encode(ARGUMENTS.get(verb, ("x", 1, [])))
            arguments = mutator.mutated(arguments) if surface == "arguments" else arguments
        made = encode_request(Request(random.randbytes(16), number, 0, False, verb, msgspec.Raw(arguments)))
        return mutator.mutated(made) if surface == "a frame" else made

    with client(hub) as honest, client(hub) as hostile, worker_here(app):
        say(honest, 1, "broker.publish", [encode(kept)])
        assert heard(honest, "broker.publish") == (1, None)
        write = {"bytes": lambda number: knock(hub, mutator, random)}.get(
            surface, lambda number: send(hostile, frame(number), random.random() < 0.05))  # fmt: skip
        numbers = iter(range(2, count + 100))

        def mend() -> None:
            say(honest, next(numbers), "operations.resume", "default")  # it may have been paused
            assert heard(honest, "operations.resume")[1] is None
            say(honest, next(numbers), "operations.peek", "kept", 10, 0)
            assert [one.id for one in heard(honest, "operations.peek")[1]] == [kept.id]

        feed(app, psutil.Process(hub.process.pid), count, write, lambda number: show(app), mend)
    app.close()
    assert "Traceback" not in hub.text(), hub.text()[-3000:]


def send(socket: zmq.Socket[bytes], frame: bytes, in_parts: bool) -> None:
    """Send a frame; or several, as one message. Answers are left where they are, as a client does that never reads."""
    socket.send_multipart([frame[:9], frame, b""] if in_parts else [frame])


def knock(hub: HubServer, mutator: Mutator, random: Random) -> None:
    """Send bytes that are no ZeroMQ, on a connection of their own."""
    host, _, port = hub.bind.removeprefix("tcp://").rpartition(":")
    data = random.choice(STREAMS)
    with socket.create_connection((host, int(port)), PATIENCE) as connection, suppress(ConnectionError):
        connection.sendall(mutator.mutated(data) if random.random() < 0.8 else data)
