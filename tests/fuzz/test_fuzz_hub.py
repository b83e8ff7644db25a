"""The frames that a hub is sent: whatever comes, it answers the next honest request, and holds what it held."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from celeriac.drivers.zmq.frames import Request, encode_request
from celeriac.drivers.zmq.verbs import VERBS
from celeriac.model.message import PLAIN, encode
from tests.conformance.broker import message
from tests.hub_server import HubServer
from tests.test_hub import SESSION, dealer, heard, say

FEW = 300  # inputs in `make test`
EACH = 50  # inputs between two honest requests

ARGUMENTS = {
    "broker.publish": ([encode(message(queue="other"))],), "leases.receive": (1, 1, [], ["nowhere"], {PLAIN: 5}, 0.0),
    "leases.settle": (1, [["1:1:1:4:5", "acknowledge", None, [], None, False, None, 0, ""]]),
    "operations.rewrite": ({"a": [b"x", b"y"]}, ["ready"]), "backend.store": ([b"\x83\xa2id\xa1a"],),
    "schedules.change": ([[["a", b"", 1, None], ["a", b"x", 1, 5], [], []]],), "history.get": ([[1] * 8],),
}  # fmt: skip


def mutated(random: Random, data: bytes) -> bytes:
    """Return bytes with some of them changed, left out, doubled, or cut off."""
    found = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(found) + 1)
        how = random.randrange(4)
        if how == 0 and at < len(found):
            found[at] = random.choice((0, 0x7F, 0x80, 0xC0, 0xC1, 0xCB, 0xFF, random.randrange(256)))
        elif how == 1:
            del found[at : at + random.randint(1, 3)]
        elif how == 2:
            found[at:at] = found[max(0, at - 8) : at] or b"\xff"
        elif random.random() < 0.1:
            del found[at:]
    return bytes(found)


@pytest.mark.parametrize("surface", ["a frame", "arguments"])
def test_a_hub_stands_whatever_frames_come(
    hub_on_time: HubServer, surface: str, pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("--fuzz-seed") or Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    hub_on_time.emptied()
    kept = message("kept")
    SESSION[:] = random.randbytes(16)
    with dealer(hub_on_time) as socket:
        say(socket, 1, "broker.publish", [encode(kept)])
        assert heard(socket, "broker.publish") == (1, None)
        for number in range(pytestconfig.getoption("--fuzz") or FEW):
            verb = random.choice([*ARGUMENTS, *VERBS])
            arguments = msgspec.msgpack.encode(ARGUMENTS.get(verb, ("x", 1, [])))
            if surface == "arguments":
                arguments = mutated(random, arguments)
            frame = encode_request(Request(random.randbytes(16), number, 0, False, verb, msgspec.Raw(arguments)))
            socket.send(mutated(random, frame) if surface == "a frame" else frame)
            if number % EACH == EACH - 1:
                with dealer(hub_on_time) as honest:
                    say(honest, number + 2, "operations.peek", "kept", 10, 0)
                    assert [one.id for one in heard(honest, "operations.peek")[1]] == [kept.id]
