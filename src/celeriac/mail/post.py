"""Sends one mail: writes it, and hands it to the mail server. The other end of the messages that `tasks.py` makes.

`tasks.py` imports this in children alone, when the first mail is sent; `celeriac mail test` calls `post_test`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from typing import Any

import msgspec

from celeriac.errors import DecodeError
from celeriac.mail.details import read_details
from celeriac.mail.letter import Envelope, digest_letter, failure_letter, plain_letter
from celeriac.mail.schedule import Mail
from celeriac.mail.smtp import own_name, send
from celeriac.mail.tasks import check_mail
from celeriac.model.gate import Instant
from celeriac.model.mail_server import MailServer, address_of
from celeriac.ports.framework import Mailer
from celeriac.tasks.protocols import App

__all__ = ["Letter", "mailer_of", "post_letter", "post_test", "sender_of"]


class Letter(msgspec.Struct, kw_only=True):
    """The argument of the task: what to tell, and when that was found out."""

    at: Instant
    failures: Mail | None = None
    others: int = 0  # signatures of a digest that are not listed
    subject: str = ""
    body: str = ""


def post_letter(app: App, data: Mapping[str, Any], to: Sequence[str] | None, id: str) -> None:
    """Send a mail to the administrators; to those in `to` alone, if they still are. Raises `MailError`.

    Raises `DecodeError` if the data is not what `tasks.py` makes: anybody who may send tasks may have sent it.
    """
    check_mail(app)
    try:
        letter = msgspec.convert(data, Letter)
    except msgspec.ValidationError as error:
        raise DecodeError(f"This is no mail that Celeriac has made: {error}.") from None
    admins: list[str] = app.conf.mail_admins
    chosen = [one for one in admins if one in (to or ())]
    recipients = chosen or admins
    _send(app, _message(app, letter, _envelope(app, admins), id), recipients)


def post_test(app: App, to: Sequence[str]) -> None:
    """Send a test mail. Raises `MailError`."""
    now = app.clock.now()
    body = ("This is a test. If you read it, mails about failures will reach you.\n\n"
            f"`celeriac mail test` has sent it on {own_name()}.")  # fmt: skip
    _send(app, plain_letter(_envelope(app, to), "Test", body, f"test.{now:.3f}", now), to)


def sender_of(app: App) -> str:
    """Return the address that mails come from."""
    return app.conf.mail_from or f"celeriac@{own_name()}"


def _envelope(app: App, recipients: Sequence[str]) -> Envelope:
    return Envelope(app.main or "app", sender_of(app), recipients, app.conf.web_url)


def _message(app: App, letter: Letter, envelope: Envelope, id: str) -> EmailMessage:
    mail = letter.failures
    if mail is None or not mail.notices:
        return plain_letter(envelope, letter.subject, letter.body, id, letter.at)
    if len(mail.notices) > 1 or letter.others:
        return digest_letter(envelope, mail, letter.at, letter.others)
    (notice,) = mail.notices
    details = app.broker.complete(read_details(app, app.history, notice.signature.signature, notice.since))
    return failure_letter(envelope, mail, details, letter.at)


def mailer_of(app: App) -> Mailer | None:
    """Return what sends mails in place of the server of `mail_url`: the framework's, unless that is set."""
    return app.framework.mailer() if app.framework is not None and app.conf.is_default("mail_url") else None


def _send(app: App, message: EmailMessage, recipients: Sequence[str]) -> None:
    if (mailer := mailer_of(app)) is not None:
        mailer.send(message, recipients)
        return
    send(MailServer.of(app.conf.mail_url), message, address_of(sender_of(app))[1], recipients, app.conf.mail_timeout)
