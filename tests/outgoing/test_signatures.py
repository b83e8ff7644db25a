"""Signatures of Standard Webhooks: the vectors of its libraries, and what a receiver must refuse."""

from __future__ import annotations

import subprocess
import sys

import pytest

from celeriac.model.webhook_signatures import header_id, parse_secret, sign, signed_headers
from celeriac.webhooks import BadSignature, new_secret, verify
from tests.outgoing.endpoint import SECRET

ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
SIGNED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="  # the vector of the specification's own libraries
HEADERS = {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": SIGNED}
WRONG = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="


def test_the_vector_of_the_specification_is_what_is_signed() -> None:
    assert sign(ID, AT, BODY, parse_secret(SECRET)) == SIGNED
    assert signed_headers(ID, AT + 0.9, BODY, [parse_secret(SECRET)]) == HEADERS


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"webhook-signature": f"{WRONG} v2,{SIGNED[3:]} {SIGNED} {WRONG}"},  # several, while secrets are replaced
        {"webhook-timestamp": str(AT), "another": "header"},
    ],
)
def test_a_signed_request_is_accepted(changed: dict[str, str]) -> None:
    headers = {name.title(): value for name, value in {**HEADERS, **changed}.items()}
    assert verify(headers, BODY, SECRET, now=AT + 299) == ID
    assert verify(headers, BODY, [OTHER, SECRET], now=AT - 299) == ID


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"webhook-id": ""}, "not signed: it lacks"),
        ({"webhook-timestamp": ""}, "not signed: it lacks"),
        ({"webhook-signature": ""}, "not signed: it lacks"),
        ({"webhook-timestamp": "hello"}, "not a whole number"),
        ({"webhook-timestamp": "١٢"}, "not a whole number"),
        ({"webhook-timestamp": "9" * 16}, "not a whole number"),
        ({"webhook-timestamp": str(AT - 301)}, "301 s ago"),
        ({"webhook-timestamp": str(AT + 301)}, "301 s ahead"),
        ({"webhook-timestamp": str(AT + 1)}, "not signed with one of the secrets"),
        ({"webhook-id": "another"}, "not signed with one of the secrets"),
        ({"webhook-signature": "v1,"}, "not signed with one of the secrets"),
        ({"webhook-signature": SIGNED[:8]}, "not signed with one of the secrets"),
        ({"webhook-signature": SIGNED[3:]}, "not signed with one of the secrets"),
        ({"webhook-signature": f"v2,{SIGNED[3:]}"}, "not signed with one of the secrets"),
        ({"webhook-signature": "v1,\udce4"}, "not signed with one of the secrets"),
        ({"webhook-signature": f"{WRONG} " * 50 + SIGNED}, "not signed with one of the secrets"),
    ],
)
def test_a_request_that_is_not_rightly_signed_is_refused(changed: dict[str, str], why: str) -> None:
    with pytest.raises(BadSignature, match=why):
        verify({**HEADERS, **changed}, BODY, SECRET, now=AT)


def test_a_changed_body_and_another_secret_are_refused() -> None:
    for body, secret in ((BODY + b" ", SECRET), (BODY, OTHER), (BODY, [])):
        with pytest.raises(BadSignature):
            verify(HEADERS, body, secret, now=AT)


def test_each_secret_signs_while_secrets_are_replaced() -> None:
    headers = signed_headers("1", AT, BODY, [parse_secret(OTHER), parse_secret(SECRET)])
    for secret in (OTHER, SECRET):
        assert verify(headers, BODY, secret, now=AT) == "1"


@pytest.mark.parametrize("text", ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_c2hvcnQ=", "whsec_%" * 9,
                                  "whsec_" + "A" * 100, "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])  # fmt: skip
def test_what_is_no_secret_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="celeriac keys --webhook") as raised:
        parse_secret(text)
    assert not text or text[6:] == "" or text[6:] not in str(raised.value)


def test_a_new_secret_is_one() -> None:
    assert len(parse_secret(new_secret())) == 32
    assert new_secret() != new_secret()


def test_the_command_prints_a_new_secret() -> None:
    done = subprocess.run([sys.executable, "-m", "celeriac", "keys", "--webhook"], capture_output=True, text=True)
    assert len(parse_secret(done.stdout.strip())) == 32


@pytest.mark.parametrize(
    ("id", "header"),
    [
        ("0197a1b2-7c00-7000-8000-00000000000a", "0197a1b2-7c00-7000-8000-00000000000a"),
        ("a\r\nHost: evil", "a%0D%0AHost:%20evil"),
        ('"; x="', "%22%3B%20x%3D%22".replace("%3D", "=")),
        ("a.1", "a%2E1"),  # else an id and a timestamp could be divided in another way
        ("ä %", "%C3%A4%20%25"),
    ],
)
def test_an_id_of_any_characters_becomes_a_header(id: str, header: str) -> None:
    assert header_id(id) == header
    assert header.isascii()
    assert "." not in header
