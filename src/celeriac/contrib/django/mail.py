"""Mails through Django's settings: `ADMINS`, `SERVER_EMAIL`, and `EMAIL_…`, or `MAILERS` since Django 6.1.

`framework.py` asks for the settings when an app reads its own from Django's: they count where Celeriac's say nothing.
A mail server becomes `mail_url`, and mails go to it as they do without Django. Another backend of Django's (files, a
provider's package) sends them itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core.mail import EmailMultiAlternatives

from celeriac.config.celery_mail import smtp_url
from celeriac.contrib.django.connections import log
from celeriac.errors import MailError
from celeriac.model.mail_server import addresses, check_address

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = ["DjangoMailer", "mail_settings", "mailer"]

SMTP: Final = "django.core.mail.backends.smtp.EmailBackend"
EMAIL: Final = {
    "EMAIL_BACKEND": "", "EMAIL_HOST": "host", "EMAIL_PORT": "port", "EMAIL_HOST_USER": "username",
    "EMAIL_HOST_PASSWORD": "password", "EMAIL_USE_TLS": "use_tls", "EMAIL_USE_SSL": "use_ssl",
    "EMAIL_TIMEOUT": "timeout", "EMAIL_SSL_CERTFILE": "ssl_certfile", "EMAIL_SSL_KEYFILE": "ssl_keyfile",
}  # fmt: skip
"""Settings of a mail server, and the names that their values have as options in `MAILERS`."""
OF_ITSELF: Final = frozenset({"from", "to", "subject", "mime-version", "content-type", "content-transfer-encoding"})
"""Headers that Django makes."""


class DjangoMailer:
    """Sends mails by a backend of Django's."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def send(self, message: EmailMessage, recipients: Sequence[str]) -> None:
        """Send a mail to these addresses. Raises `MailError`."""
        headers = {name: str(value) for name, value in message.items() if name.lower() not in OF_ITSELF}
        text, page = message.get_body(("plain",)), message.get_body(("html",))
        mail = EmailMultiAlternatives(str(message["Subject"]), text.get_content() if text is not None else "",
                                      str(message["From"]), list(recipients), headers=headers)  # fmt: skip
        if page is not None:
            mail.attach_alternative(page.get_content(), "text/html")
        try:
            mail.send()
        except Exception as error:  # each backend has errors of its own
            raise MailError(f"{self} has not sent the mail: {type(error).__name__}: {error}", temporary=True) from error

    def __str__(self) -> str:
        return f"Django's mail backend {self.backend}"


def mail_settings() -> dict[str, Any]:
    """Return Celeriac's settings of mails as Django's say them. With `DEBUG`, failures are not mailed, as in Django."""
    found: dict[str, Any] = {}
    try:
        if settings.ADMINS:
            found["mail_admins"] = addresses(settings.ADMINS)
        if settings.is_overridden("SERVER_EMAIL"):
            found["mail_from"] = check_address(settings.SERVER_EMAIL)
    except ValueError as error:
        log.warning("Mails do not go by Django's ADMINS and SERVER_EMAIL: %s Set CELERIAC_MAIL_ADMINS.", error)
        return {}
    backend, options = _backend()
    if backend == SMTP and (url := _url(options)) is not None:
        found["mail_url"] = url
        if options.get("timeout"):
            found["mail_timeout"] = float(options["timeout"])
    if settings.DEBUG:
        found["task_send_error_emails"] = False
    return found


def mailer() -> DjangoMailer | None:
    """Return what sends mails, if the mail server of `mail_settings` does not."""
    backend, options = _backend()
    return None if backend == SMTP and _url(options) is not None else DjangoMailer(backend)


def _backend() -> tuple[str, Mapping[str, Any]]:
    """Return the path of Django's mail backend, and its options, as `MAILERS` names them."""
    if hasattr(settings, "MAILERS"):
        chosen = settings.MAILERS.get("default", {})
        return chosen.get("BACKEND", SMTP), chosen.get("OPTIONS", {})
    given = {name: _own(name) for name in EMAIL if settings.is_overridden(name)}
    return given.pop("EMAIL_BACKEND", SMTP), {EMAIL[name]: value for name, value in given.items()}


def _own(name: str) -> Any:
    """Return a setting of the project's. Since 6.1, Django warns of these: to the project at its start, not again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(settings, name)


def _url(options: Mapping[str, Any]) -> str | None:
    """Return the `mail_url` of a server; None if it wants a certificate of ours, which a URL does not have."""
    if options.get("ssl_certfile") or options.get("ssl_keyfile"):
        return None
    return smtp_url(options.get("host"), options.get("port"), options.get("username"), options.get("password"),
                    bool(options.get("use_ssl")), bool(options.get("use_tls")))  # fmt: skip
