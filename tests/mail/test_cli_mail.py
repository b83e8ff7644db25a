"""`celeriac mail test`, and what `celeriac report` tells of mails."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from celeriac import Celeriac
from celeriac.cli import main
from tests.commands import command
from tests.mail.mail_server import MailServerProcess, running_mail_server

ADMINS = ["Ann <ann@example.org>", "bob@example.org"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MailServerProcess]:
    with running_mail_server(tmp_path / "smtp") as running:
        yield running


def test_a_test_mail_is_sent_without_a_worker(make_app: Callable[..., Celeriac], server: MailServerProcess) -> None:
    app = make_app(mail_admins=ADMINS, mail_url=server.url, mail_from="c@example.org")
    result = command(app, "mail", "test")
    assert result.exit_code == 0
    assert result.output == (
        f"Sending from c@example.org by 127.0.0.1:{server.port}, without encryption, without a user …\n"
        "The server has accepted the mail for Ann <ann@example.org>, bob@example.org.\n"
    )
    assert [mail.recipients for mail in server.mails()] == [["ann@example.org", "bob@example.org"]]


def test_a_test_mail_can_go_to_somebody_else(make_app: Callable[..., Celeriac], server: MailServerProcess) -> None:
    result = command(
        make_app(mail_url=server.url, mail_from="c@example.org"), "mail", "test", "--to", "eve@example.org"
    )
    assert result.exit_code == 0
    assert [mail.recipients for mail in server.mails()] == [["eve@example.org"]]


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [("history", "off", "this app keeps no history"), ("task_send_error_emails", False, "Failures are not mailed")],
)
def test_it_says_why_failures_are_not_mailed_all_the_same(
    setting: str, value: object, text: str, make_app: Callable[..., Celeriac], server: MailServerProcess
) -> None:
    app = make_app(mail_admins=ADMINS, mail_url=server.url, mail_from="c@example.org", **{setting: value})
    assert text in command(app, "mail", "test").output


def test_what_goes_wrong_is_told(make_app: Callable[..., Celeriac], server: MailServerProcess) -> None:
    server.set_fault("550 bob")
    result = command(make_app(mail_admins=ADMINS, mail_url=server.url), "mail", "test")
    assert result.exit_code == 1
    assert "refuses 1 of 2 recipients: bob@example.org: 550 5.1.1 nobody has this name" in result.output


def test_nobody_to_mail_to_and_a_wrong_address_are_misuse(make_app: Callable[..., Celeriac]) -> None:
    result = command(make_app(), "mail", "test")
    assert result.exit_code == 2
    assert "There is nobody to mail to: set `mail_admins`" in result.output
    runner = CliRunner().invoke(main, ["mail", "test", "--to", "x@example.org\r\nBcc: y"])
    assert runner.exit_code == 2
    assert "is no address" in runner.output


def test_the_report_shows_no_password(make_app: Callable[..., Celeriac]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    app = make_app(mail_admins=ADMINS, mail_url=f"smtp://user:s3cr3t@localhost:{port}?tls=none")
    for arguments in (["report"], ["report", "--json"], ["mail", "test"]):
        assert "s3cr3t" not in command(app, *arguments).output
    assert f"smtp://user:***@localhost:{port}" in command(app, "report").output
