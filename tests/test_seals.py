"""Keys, seals and codecs: what they refuse, by themselves."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeriac import Celeriac
from celeriac.errors import DecodeError, ImproperlyConfigured
from celeriac.model.codec import PLAIN_CODEC, Codec, codec_of
from celeriac.model.gate import Unreadable
from celeriac.model.keys import CALLER_KINDS, Kind, new_key, parse_key, write_caller_key
from celeriac.model.message import Message, new_id
from celeriac.model.outcome import Outcome
from celeriac.model.seals import Seal

NEW, OLD, OTHER = (parse_key(letter * 32) for letter in "nox")
KINDS: tuple[Kind, ...] = ("message", "outcome", "tree", "line", "command", "reply", "worker", "journal", "dead")

either = pytest.mark.parametrize("encrypt", [False, True], ids=["signed", "encrypted"])


def seal(*keys: Any, kind: Kind = "message", prefix: str = "", encrypt: bool = False) -> Seal:
    return Seal(kind, keys or (NEW,), prefix, encrypt)


@either
@given(data=st.binary(max_size=300), context=st.binary(max_size=20))
def test_what_was_closed_is_opened(encrypt: bool, data: bytes, context: bytes) -> None:
    one = seal(encrypt=encrypt)
    closed = one.close(data, context)
    assert bytes(one.open(closed, context)) == data
    assert bytes(one.open(memoryview(closed), context)) == data


@either
@given(data=st.binary(min_size=1, max_size=100), at=st.integers(0), change=st.integers(1, 255))
def test_any_changed_byte_is_refused(encrypt: bool, data: bytes, at: int, change: int) -> None:
    one = seal(encrypt=encrypt)
    closed = bytearray(one.close(data))
    closed[at % len(closed)] ^= change
    with pytest.raises(Unreadable):
        one.open(bytes(closed))


@either
@given(st.binary(max_size=60))
def test_any_other_bytes_are_refused(encrypt: bool, data: bytes) -> None:
    one = seal(encrypt=encrypt)
    for forged in (data, one.close(b"x")[:6] + data, one.close(b"good")[: min(len(data), 25)]):
        with pytest.raises(Unreadable):
            one.open(forged)


@either
def test_another_kind_prefix_context_or_key_is_refused(encrypt: bool) -> None:
    closed = seal(encrypt=encrypt).close(b"data", b"W")
    for other in (seal(kind="tree"), seal(prefix="shop"), seal(OTHER)):
        with pytest.raises(Unreadable):
            other.open(closed, b"W")
    for context in (b"", b"V"):
        with pytest.raises(Unreadable):
            seal().open(closed, context)


@either
def test_keys_are_replaced_one_after_the_other(encrypt: bool) -> None:
    """Each key first as the second one everywhere, then as the first one; then the old one goes."""
    steps = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
    for before, after in itertools.pairwise(steps):
        one, two = seal(*before, encrypt=encrypt), seal(*after, encrypt=encrypt)
        assert bytes(one.open(two.close(b"data"))) == bytes(two.open(one.close(b"data"))) == b"data"
    with pytest.raises(Unreadable, match="which is not among `security_keys`"):
        seal(NEW).open(seal(OLD).close(b"data"))


def test_encryption_is_switched_on_while_others_sign() -> None:
    signed, encrypted = seal(), seal(encrypt=True)
    assert bytes(signed.open(encrypted.close(b"data"))) == bytes(encrypted.open(signed.close(b"data"))) == b"data"


def test_encrypted_bytes_do_not_show_what_they_hold() -> None:
    closed = [seal(encrypt=True).close(b"a secret") for _ in range(2)]
    assert b"secret" not in closed[0]
    assert closed[0] != closed[1]


def test_the_child_of_a_fork_encrypts_under_another_salt() -> None:
    one = seal(encrypt=True)
    own = one.close(b"data")
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writable, one.close(b"data"))
        os._exit(0)
    os.waitpid(child, 0)
    forked = os.read(readable, 1000)
    os.close(readable)
    os.close(writable)
    assert forked[6:22] != own[6:22]
    assert bytes(one.open(forked)) == b"data"


def test_a_callers_key_signs_what_callers_send_and_nothing_else() -> None:
    caller = parse_key(write_caller_key(NEW))
    for kind in KINDS:
        if kind in CALLER_KINDS:
            assert bytes(seal(kind=kind).open(seal(caller, kind=kind).close(b"data"))) == b"data"
            continue
        with pytest.raises(ImproperlyConfigured, match="is a caller's key"):
            seal(caller, kind=kind).close(b"data")
        with pytest.raises(Unreadable, match="must not sign"):
            seal(caller, kind=kind).open(seal(kind=kind).close(b"data"))


@pytest.mark.parametrize("bad", ["short", "caller:zz:zz", "caller:00000000:AAAA", "caller:" + "A" * 60])
def test_a_bad_key_is_refused_and_not_shown(bad: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="security_keys: ") as raised:
        Celeriac("shop", security_keys=[bad])
    assert bad not in str(raised.value)


def test_keys_are_shown_nowhere() -> None:
    key = new_key()
    app = Celeriac("shop", security_keys=[key])
    assert key not in repr(app) + repr(app.conf)
    with pytest.raises(ImproperlyConfigured) as raised:
        Celeriac("shop", security_keys=key)
    assert key not in str(raised.value)


# --- Codecs -------------------------------------------------------------------------------------------


def message(**fields: Any) -> Message:
    return Message(**{"id": new_id(), "task": "shop.add", **fields})


def test_without_keys_the_codec_adds_nothing() -> None:
    sent = message()
    assert codec_of((), "", True, False) is PLAIN_CODEC
    assert PLAIN_CODEC.seal("command", b"data") == b"data"
    assert PLAIN_CODEC.decode(PLAIN_CODEC.encode(sent), "default") == sent


def test_a_message_found_in_another_queue_is_refused_if_it_is_signed() -> None:
    sent, signing = message(queue="mail"), Codec([NEW])
    assert PLAIN_CODEC.decode(PLAIN_CODEC.encode(sent), "default").queue == "default"
    assert signing.decode(signing.encode(sent), "mail") == sent
    with pytest.raises(Unreadable, match="was signed for the queue 'mail'"):
        signing.decode(signing.encode(sent), "default")


def test_who_has_no_keys_is_told_that_a_value_is_signed() -> None:
    with pytest.raises(Unreadable, match="a message that is signed, and `security_keys` is not set here"):
        PLAIN_CODEC.decode(Codec([NEW]).encode(message()), "default")


def test_what_is_not_signed_is_refused_unless_it_is_accepted() -> None:
    sent = message()
    with pytest.raises(Unreadable, match="is not signed"):
        Codec([NEW]).decode(PLAIN_CODEC.encode(sent), "default")
    lenient = Codec([NEW], lenient=True)
    assert lenient.decode(PLAIN_CODEC.encode(sent), "default") == sent
    with pytest.raises(Unreadable, match="not among"):
        lenient.decode(Codec([OLD]).encode(sent), "default")


@either
def test_the_outcome_of_another_task_is_refused(encrypt: bool) -> None:
    codec = Codec([NEW], "", encrypt)
    stored = codec.encode_outcome(Outcome(id="a", task="t", state="SUCCESS"))
    assert codec.read_outcome("a", stored).state == "SUCCESS"
    swapped = codec.read_outcome("b", stored)
    assert swapped.state == "FAILURE"
    assert isinstance(swapped.exception(), DecodeError)


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("data", [None, 7, 1.5, "text"])
def test_what_is_not_even_bytes_is_refused(data: Any, lenient: bool) -> None:
    with pytest.raises(Unreadable):
        Codec([NEW], lenient=lenient).decode(data, "default")
