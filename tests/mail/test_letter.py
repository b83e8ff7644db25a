"""What is in a mail; and nothing that a task, an exception, an app or a machine is called can add a header to it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import msgspec
import pytest

from celeriac import Celeriac
from celeriac.errors import DecodeError
from celeriac.mail.details import Details, shown_call
from celeriac.mail.letter import Envelope, digest_letter, failure_letter, plain_letter
from celeriac.mail.post import post_letter, sender_of
from celeriac.mail.schedule import Mail, Notice
from celeriac.model.history import Attempt, FailureSignature
from celeriac.model.mail_server import addresses, check_address, one_line
from celeriac.model.masks import masked_arguments

AT = 1_800_000_300.0
ONE = FailureSignature(signature="62f0a3eed2e81bd8", task="shop.charge", error="shop.Declined",
                       title="Declined: no money", frames=["shop.charge", "shop.bank.pay"],
                       first=AT - 300, last=AT - 1, workers=["a", "b"],
                       count=37, retries=12)  # fmt: skip
EVIL = [
    "x\r\nBcc: victim@example.com",
    "x\nBcc: victim@example.com",
    "x\rBcc: victim@example.com",
    "x\r\n\r\n<script>alert(1)</script>",
    "x\x00\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029Bcc: victim@example.com",
    "x\u202eBcc\ud800\udfff",
    "=?utf-8?q?=0D=0ABcc:_victim=40example.com?=",
    "=?utf-8?b?DQpCY2M6IHZpY3RpbUBleGFtcGxlLmNvbQ==?=",
    "x" * 100_000,
    "ä" * 5_000 + "\r\nBcc: y",
    "<b>\"'&;,:@(),<>[]",
    "",
]


def envelope(app: str = "shop", **fields: Any) -> Envelope:
    given = {"sender": "celeriac@example.org", "recipients": ["Ann <ann@example.org>"], **fields}
    return Envelope(app, **given)


def mail(one: FailureSignature = ONE, **fields: Any) -> Mail:
    notice = {"signature": one, "kind": "new", "count": 37, "since": AT - 300, **fields}
    return Mail(name=f"{one.signature}.0", notices=[Notice(**notice)])


def sent(message: EmailMessage) -> EmailMessage:
    """Return a mail as a recipient reads it."""
    parsed = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def text(message: EmailMessage, kind: str = "plain") -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


# --- Contents -----------------------------------------------------------------------------------------


def test_a_mail_tells_what_failed_where_how_often_and_what_to_do() -> None:
    latest = Attempt(id="0197", task="shop.charge", state="FAILURE", worker="a", message="no money", done_at=AT - 1,
                     traceback="Traceback …\nDeclined: no money")  # fmt: skip
    details = Details(latest=latest, call="charge(order=7, card_number='***')", workers={"a": 30, "b": 7}, looked_at=37)
    got = sent(failure_letter(envelope(web_url="https://tasks.example.org"), mail(), details, AT))
    assert got["Subject"] == "[shop] Declined in shop.charge: 37 × in 5 min (new)"
    assert got["Message-ID"] == "<62f0a3eed2e81bd8.0@shop.celeriac>"
    assert got["References"] == got["In-Reply-To"] == "<62f0a3eed2e81bd8@shop.celeriac>"
    assert got["Auto-Submitted"] == "auto-generated"
    assert got["List-Id"] == "<failures.shop.celeriac>"
    assert got["Date"].datetime.timestamp() == AT
    for body in (text(got), text(got, "html").replace("&#x27;", "'")):
        for part in ("Declined: no money", "37 failures since 2027-01-15 08:00:00 UTC", "12 more were tried again",
                     "a: 30, b: 7", "https://tasks.example.org/failures/62f0a3eed2e81bd8", "shop.charge[0197]",
                     "charge(order=7, card_number='***')", "Traceback …",
                     "celeriac -A shop stats mark 62f0a3eed2e81bd8 muted", "comes in 5 min"):  # fmt: skip
            assert part in body


def test_mails_about_one_signature_form_a_thread() -> None:
    first = failure_letter(envelope(), mail(), Details(), AT)
    later = failure_letter(envelope(), msgspec.structs.replace(mail(kind="more"), name="62f0.1"), Details(), AT)
    assert first["References"] == later["References"]
    assert first["Message-ID"] != later["Message-ID"]


@pytest.mark.parametrize(
    ("kind", "subject", "sentence"),
    [
        ("more", "37 × in 5 min", "It goes on."),
        ("again", "37 × in 5 min (again)", "is back after more than a day"),
        (
            "regressed",
            "37 × in 5 min (regressed)",
            "It was marked as resolved by ann, 2027-01-15 08:00:00 UTC, and has",
        ),
        ("resolved", "resolved by ann", "It was marked as resolved by ann, 2027-01-15 08:00:00 UTC."),
    ],
)
def test_a_mail_tells_why_it_is_sent(kind: str, subject: str, sentence: str) -> None:
    one = msgspec.structs.replace(ONE, marked_at=AT - 300, marked_by="ann")
    got = sent(failure_letter(envelope(), mail(one, kind=kind), Details(), AT))
    assert got["Subject"] == f"[shop] Declined in shop.charge: {subject}"
    assert sentence in text(got)


def test_a_digest_lists_the_signatures_and_says_that_it_is_the_last_mail() -> None:
    notices = [Notice(signature=msgspec.structs.replace(ONE, signature=f"s{number}"), kind="new", count=number,
                      since=AT - 300) for number in range(7)]  # fmt: skip
    got = sent(digest_letter(envelope(), Mail(name="digest.1", notices=notices, last_until=AT + 3000), AT, others=950))
    assert got["Subject"] == "[shop] 957 kinds of failures: 21 ×"
    assert "References" not in got
    assert all(f"signature s{number}" in text(got) for number in range(7))
    assert "and 950 more" in text(got)
    assert "This is the last mail until 2027-01-15 08:55:00 UTC: `mail_max_per_hour` is reached" in text(got)


def test_passwords_in_texts_are_masked() -> None:
    secret = msgspec.structs.replace(ONE, title="Error: redis://user:s3cr3t@host/0 is away")
    latest = Attempt(id="1", task="t", state="FAILURE", message="x", traceback="… amqp://u:s3cr3t@h …")
    for message in (failure_letter(envelope(), mail(secret), Details(latest=latest), AT),
                    digest_letter(envelope(), mail(secret), AT)):  # fmt: skip
        assert "s3cr3t" not in message.as_string() + text(message) + text(message, "html")


def test_arguments_are_masked_by_their_names(make_app: Callable[..., Celeriac]) -> None:
    app = make_app()

    @app.task(name="shop.login")
    def login(user: str, password: str, options: dict[str, Any] | None = None) -> None: ...

    @app.task(name="shop.bound", bind=True)
    def bound(self: Any, token: str, *rest: int) -> None: ...

    def shown(task: Any, *args: Any, **kwargs: Any) -> str:
        return shown_call(app, task.message_template().message(args, kwargs))

    assert shown(login, "ann", "s3cr3t") == "login(user='ann', password='***')"
    hidden = "login(user='ann', options={'api_key': '***', 'urls': ['smtp://u:***@h']}, password='***')"
    options = {"api_key": "s3cr3t", "urls": ["smtp://u:s3cr3t@h"]}
    assert sorted(shown(login, "ann", options=options, password="s3cr3t")) == sorted(hidden)
    assert shown(bound, "s3cr3t", 1, 2) == "bound(token='***', 1, 2)"
    assert shown(login, "x" * 10_000, "").count("x") < 600


@pytest.mark.parametrize("name", ["password", "Passwd", "db_password", "api_key", "apikey", "secret_id", "Cookie",
                                  "authorization", "card_number", "cvv", "access_token", "session_cookie"])  # fmt: skip
def test_arguments_with_such_names_are_secret(name: str) -> None:
    assert masked_arguments({name: "x"}) == {name: "***"}


@pytest.mark.parametrize("name", ["order", "user", "key", "author", "bypass", "compass_id", "spin", "accord"])
def test_arguments_with_such_names_are_shown(name: str) -> None:
    assert masked_arguments({name: "x"}) == {name: "x"}


# --- Injection ----------------------------------------------------------------------------------------

HEADERS = {"From", "To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted", "List-Id",
           "X-Auto-Response-Suppress", "MIME-Version", "Content-Type"}  # fmt: skip


def check_harmless(message: EmailMessage) -> None:
    """Check that a mail is read as it was meant: no more headers, recipients, lines or tags than there are always."""
    raw = message.as_bytes()
    assert max(map(len, raw.split(b"\r\n"))) < 998
    assert raw.replace(b"\r\n", b"").count(b"\n") == raw.replace(b"\r\n", b"").count(b"\r") == 0
    raw.decode("ascii")
    got = sent(message)
    assert set(got.keys()) <= HEADERS
    assert len(got.keys()) == len(set(got.keys()))
    assert got["To"] == "Ann <ann@example.org>"
    assert got["From"] == "celeriac@example.org"
    assert len(got["Subject"]) <= 200
    for name in HEADERS & set(got.keys()):
        assert not set("\r\n\x00\u2028\u2029\u202e") & set(str(got[name]))
    assert [part.get_content_type() for part in got.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    assert "<script" not in text(got, "html")
    assert "<b>" not in text(got, "html")


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("field", ["task", "error", "title", "signature", "frames", "workers", "marked_by"])
def test_no_field_of_a_failure_adds_a_header(field: str, evil: str) -> None:
    value: Any = [evil] if field in ("frames", "workers") else evil
    one = msgspec.structs.replace(ONE, **{field: value})
    for kind in ("new", "resolved", "regressed"):
        check_harmless(failure_letter(envelope(), mail(one, kind=kind), Details(), AT))
    check_harmless(digest_letter(envelope(), mail(one), AT))


@pytest.mark.parametrize("evil", EVIL)
def test_no_detail_adds_a_header(evil: str) -> None:
    latest = Attempt(id=evil, task=evil, state="FAILURE", worker=evil, message=evil, traceback=evil)
    details = Details(latest=latest, call=evil, workers={evil: 1}, looked_at=1, missing=evil)
    check_harmless(failure_letter(envelope(), mail(), details, AT))


@pytest.mark.parametrize("evil", EVIL)
def test_no_name_of_an_app_and_no_address_of_the_site_adds_a_header(evil: str) -> None:
    check_harmless(failure_letter(envelope(evil, web_url=evil), mail(), Details(), AT))


@pytest.mark.parametrize("evil", EVIL)
def test_no_subject_and_no_body_of_the_users_adds_a_header(evil: str) -> None:
    check_harmless(plain_letter(envelope(), evil, evil, evil, AT))


@pytest.mark.parametrize(
    "evil",
    ["ann@example.org\r\nBcc: victim@example.com", "Ann\r\nBcc: x <ann@example.org>", "Ann\nX <a@b>", "a b@c",
     "ann@example.org, victim@example.com", "ann", "@example.org", "ann@", "a@b@c", "<ann@example.org", "a@-b",
     "a..b@c", "Ann <a@b> <c@d>", "änn@example.org", "a@b>", "x" * 300 + "@example.org", "\x00 <a@b>",
     "A\u202eB <a@b>"],
)  # fmt: skip
def test_what_is_no_address_is_refused(evil: str) -> None:
    with pytest.raises(ValueError, match=r"address|control characters"):
        check_address(evil)


def test_addresses_are_taken_in_all_their_forms() -> None:
    wanted = ["Ann <ann@example.org>", "bob@example.org"]
    for given in (wanted, [("Ann", "ann@example.org"), "bob@example.org"], "Ann <ann@example.org>, bob@example.org",
                  (('Ann', "ann@example.org"), ["", "bob@example.org"])):  # fmt: skip
        assert addresses(given) == wanted


@pytest.mark.parametrize("evil", [*EVIL, "a..b", ".", "-", "häuser", "my_host", "x." * 200])
def test_no_name_of_a_machine_adds_a_header(evil: str, make_app: Callable[..., Celeriac],
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(platform, "node", lambda: evil)
    sender = sender_of(make_app())
    assert check_address(sender) == sender
    message = sent(plain_letter(envelope(sender=sender), "x", "y", "z", AT))
    assert message["From"] == sender
    assert set(message.keys()) <= HEADERS


HOSTILE: list[Any] = [
    {}, {"at": "now"}, {"at": 1e300, "subject": "x"}, {"at": -1e300}, {"at": AT, "subject": 7},
    {"at": AT, "failures": {}},
    {"at": AT, "failures": {"name": "x", "notices": [{}]}},
    {"at": AT, "failures": {"name": "x", "notices": [{"kind": "x", "signature": {"signature": "x", "task": ""}}]}},
    {"at": AT, "failures": {"name": "x", "notices": [], "last_until": 1e200}},
    {"at": AT, "failures": {"name": "x", "notices": [{"kind": "x", "since": 1e200,
                                                      "signature": {"signature": "x", "task": "t"}}]}},
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE)
def test_a_message_that_celeriac_has_not_made_fails_alone(data: Any, make_app: Callable[..., Celeriac]) -> None:
    with pytest.raises(DecodeError, match="This is no mail that Celeriac has made"):
        post_letter(make_app(mail_admins=["ann@example.org"], mail_url="smtp://nobody.invalid"), data, None, "1")


@pytest.mark.parametrize("evil", EVIL)
def test_one_line_is_one_line(evil: str) -> None:
    line = one_line(evil)
    assert line.isprintable()
    assert len(line) <= 200
