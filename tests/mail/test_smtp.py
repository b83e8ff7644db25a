"""Mails reach a real mail server; each way in which that can fail is told, and tells whether to try again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.errors import MailError
from celeriac.mail.post import post_letter, post_test
from tests.certificates import Certificates
from tests.mail.mail_server import MailServerProcess, running_mail_server
from tests.patience import in_time

ADMINS = ["Ann <ann@example.org>", "bob@example.org"]
PASSWORD = "s3%2Fcr3t"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates") / "authority")


@pytest.fixture(scope="module")
def plain_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailServerProcess]:
    with running_mail_server(tmp_path_factory.mktemp("smtp")) as server:
        yield server


@pytest.fixture
def server(plain_server: MailServerProcess) -> MailServerProcess:
    """A server without TLS, password and faults, which has received nothing."""
    plain_server.set_fault("")
    (plain_server.folder / "mails").write_text("")
    return plain_server


def secured(folder: Path, certificates: Certificates, tls: str, **options: Any) -> Any:
    certificate, key = certificates.sign("localhost", "DNS:localhost")
    return running_mail_server(folder, tls=tls, certificate=str(certificate), key=str(key), auth=True, **options)


def app_with(make_app: Callable[..., Celeriac], url: str, **settings: Any) -> Celeriac:
    return make_app(mail_admins=ADMINS, mail_from="celeriac@example.org", mail_url=url, **settings)


def failure(app: Celeriac) -> MailError:
    with pytest.raises(MailError) as caught:
        post_test(app, ADMINS)
    assert "cr3t" not in str(caught.value)
    return caught.value


# --- It works -----------------------------------------------------------------------------------------


def test_a_mail_arrives_at_all_administrators(make_app: Callable[..., Celeriac], server: MailServerProcess) -> None:
    post_test(app_with(make_app, server.url), ADMINS)
    (mail,) = server.mails()
    assert mail.sender == "celeriac@example.org"
    assert mail.recipients == ["ann@example.org", "bob@example.org"]
    assert str(mail.message["To"]) == "Ann <ann@example.org>, bob@example.org"
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert "List-Id" in mail.message
    assert "This is a test" in mail.text
    assert "This is a test" in mail.html


@pytest.mark.parametrize("tls", ["starttls", "ssl"])
def test_a_mail_goes_over_tls_with_a_password(
    tls: str, make_app: Callable[..., Celeriac], certificates: Certificates, tmp_path: Path
) -> None:
    with secured(tmp_path / "smtp", certificates, tls) as server:
        url = f"smtp://shop:{PASSWORD}@localhost:{server.port}?tls={tls}&ssl_ca_certs={certificates.authority}"
        post_test(app_with(make_app, url), ADMINS)
        (mail,) = server.mails()
    assert mail.tls
    assert mail.authenticated


def test_a_server_that_hangs_after_it_has_taken_the_mail_has_taken_it(
    make_app: Callable[..., Celeriac], server: MailServerProcess
) -> None:
    server.set_fault("hang at quit")
    post_test(app_with(make_app, server.url, mail_timeout=0.5), ADMINS)
    assert len(server.mails()) == 1


# --- It does not --------------------------------------------------------------------------------------


def test_a_server_that_refuses_the_connection(make_app: Callable[..., Celeriac]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    error = failure(app_with(make_app, f"smtp://127.0.0.1:{port}"))
    assert error.temporary
    assert f"127.0.0.1:{port} cannot be reached: Connection refused. Check host and port in `mail_url`" in str(error)


def test_a_server_whose_name_does_not_exist(make_app: Callable[..., Celeriac]) -> None:
    error = failure(app_with(make_app, "smtp://nobody.invalid:25?tls=none"))
    assert error.temporary
    assert "has a name that cannot be resolved" in str(error)


def test_a_server_that_hangs_is_given_up_after_the_time_out(make_app: Callable[..., Celeriac], tmp_path: Path) -> None:
    with running_mail_server(tmp_path / "smtp", fault="hang") as server:
        app = app_with(make_app, server.url, mail_timeout=0.5)
        begun = app.clock.monotonic()
        error = failure(app)
        assert in_time(app.clock.monotonic() - begun, 2.0)
    assert error.temporary
    assert "nothing came within 0.5 s (`mail_timeout`)" in str(error)
    assert "tls=ssl" in str(error)


@pytest.mark.parametrize(
    ("fault", "temporary", "text"),
    [
        ("451", True, "refuses 2 of 2 recipients: ann@example.org: 451 4.7.1 greylisted, come back later; bob@"),
        ("550", False, "refuses 2 of 2 recipients: ann@example.org: 550 5.1.1 nobody has this name"),
        (
            "550 sender",
            False,
            "refuses the sender celeriac@example.org: 550 5.7.1 this sender may not. Set",
        ),
        ("554 data", False, "refuses the mail: 554 5.6.0 looks like spam"),
        ("drop", True, "ends the conversation: Connection unexpectedly closed"),
    ],
)
def test_a_server_that_refuses_a_mail(
    fault: str, temporary: bool, text: str, make_app: Callable[..., Celeriac], server: MailServerProcess
) -> None:
    server.set_fault(fault)
    error = failure(app_with(make_app, server.url))
    assert error.temporary is temporary
    assert text in str(error)


@pytest.mark.parametrize(("fault", "undelivered"), [("451 bob", ["bob@example.org"]), ("550 bob", [])])
def test_a_server_that_refuses_one_of_the_recipients(
    fault: str, undelivered: list[str], make_app: Callable[..., Celeriac], server: MailServerProcess
) -> None:
    """The others have the mail; only who may be accepted later is worth another attempt."""
    server.set_fault(fault)
    error = failure(app_with(make_app, server.url))
    assert error.undelivered == undelivered
    assert error.temporary is bool(undelivered)
    assert "refuses 1 of 2 recipients: bob@example.org" in str(error)
    (mail,) = server.mails()
    assert mail.recipients == ["ann@example.org"]


@pytest.mark.parametrize(
    ("tls", "url", "text"),
    [
        ("starttls", "shop:wrong@localhost:{port}?tls=starttls&{ca}", "refuses the user 'shop' and the password"),
        ("starttls", "shop:s3%2Fcr3t@localhost:{port}?tls=starttls", "certificate that cannot be trusted"),
        ("ssl", "shop:s3%2Fcr3t@localhost:{port}?tls=ssl", "certificate that cannot be trusted"),
        ("starttls", "shop:s3%2Fcr3t@127.0.0.1:{port}?tls=starttls&{ca}", "certificate that cannot be trusted"),
        ("starttls", "shop:s3%2Fcr3t@localhost:{port}?tls=ssl&{ca}", "does not speak TLS from the start"),
        ("starttls", "shop:s3%2Fcr3t@localhost:{port}?tls=none", "asks for no password on this connection"),
        ("starttls", "localhost:{port}?tls=none", "refuses the sender celeriac@example.org: 530"),
        ("none", "shop:s3%2Fcr3t@localhost:{port}?tls=starttls", "does not offer STARTTLS"),
        ("ssl", "localhost:{port}?tls=none", "is for TLS from the start, write tls=ssl in `mail_url`"),
        ("starttls", "localhost:{port}?tls=starttls&ssl_ca_certs=/no/such", "the file ssl_ca_certs=/no/such"),
    ],
)
def test_a_server_with_another_encryption_or_password_than_the_url_says(
    tls: str, url: str, text: str, make_app: Callable[..., Celeriac], certificates: Certificates, tmp_path: Path
) -> None:
    with secured(tmp_path / "smtp", certificates, tls) as server:
        url = url.format(port=server.port, ca=f"ssl_ca_certs={certificates.authority}")
        error = failure(app_with(make_app, f"smtp://{url}", mail_timeout=2.0))
    assert text in str(error)


def test_a_message_of_strangers_cannot_choose_recipients(
    make_app: Callable[..., Celeriac], server: MailServerProcess
) -> None:
    app = app_with(make_app, server.url)
    post_letter(app, {"subject": "x", "body": "y", "at": 0.0}, ["victim@example.com", "bob@example.org"], "id")
    post_letter(app, {"subject": "x", "body": "y", "at": 0.0}, ["victim@example.com"], "id")
    assert [mail.recipients for mail in server.mails()] == [["bob@example.org"], ["ann@example.org", "bob@example.org"]]
