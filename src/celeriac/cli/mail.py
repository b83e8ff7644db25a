"""`celeriac mail`: try whether mails reach the administrators."""

from __future__ import annotations

from collections.abc import Sequence

import click

from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.mail.post import mailer_of, post_test, sender_of
from celeriac.mail.tasks import check_mail
from celeriac.model.mail_server import MailServer, check_address

__all__ = ["command"]


@click.group("mail")
def command() -> None:
    """Try whether mails about failures reach the administrators.

    \b
    Examples:
      celeriac -A shop mail test

    \b
    Exit codes:
      0  success
      1  failure; the reason is on stderr
      2  the command line or the app is invalid
    """


def _addresses(context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> list[str]:
    try:
        return [check_address(value) for value in values]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@command.command("test")
@click.option("--to", metavar="ADDRESS", multiple=True, callback=_addresses,
              help="Send it to this address instead of `mail_admins`. May be repeated.")  # fmt: skip
@with_session
def test(session: Session, *, to: list[str]) -> None:
    """Send a test mail now, without a worker, and say what the mail server answers.

    \b
    Examples:
      celeriac -A shop mail test
      celeriac -A shop mail test --to ann@example.org

    \b
    Exit codes:
      0  the mail server has accepted the mail for all recipients
      1  it has not; the reason is on stderr
      2  the command line or the app is invalid
    """
    app = session.app
    if not to:
        check_mail(app)
    recipients = to or app.conf.mail_admins
    if (mailer := mailer_of(app)) is not None:
        echo(f"Sending from {sender_of(app)} by {mailer} …")
        post_test(app, recipients)
        echo(f"It has accepted the mail for {', '.join(recipients)}.")
    else:
        server = MailServer.of(app.conf.mail_url)
        secured = {"none": "without encryption", "ssl": "with TLS", "starttls": "with STARTTLS"}[server.tls]
        echo(f"Sending from {sender_of(app)} by {server}, {secured}"
             f"{f', as the user {server.username}' if server.username else ', without a user'} …")  # fmt: skip
        post_test(app, recipients)
        echo(f"The server has accepted the mail for {', '.join(recipients)}.")
    if app.conf.task_send_error_emails is False:
        echo("Failures are not mailed: `task_send_error_emails` is False.")
    elif app.history is None:
        echo("Failures are not mailed, and workers do not start: this app keeps no history. Set `history_url`.")
