"""Mails about failures go by Django's settings, where Celeriac's own say nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import django
import pytest
from django.conf import settings
from django.core import mail
from django.test import override_settings
from django.utils import deprecation

from celeriac import Celeriac
from celeriac.errors import MailError
from celeriac.mail.post import mailer_of, post_test

SMTP = "django.core.mail.backends.smtp.EmailBackend"
LOCMEM = "django.core.mail.backends.locmem.EmailBackend"
ADMINS = [("Ann", "ann@example.org")] if django.VERSION < (6, 0) else ["Ann <ann@example.org>"]


@pytest.fixture(autouse=True)
def old_names() -> Iterator[None]:
    """Django 6.1 warns of EMAIL_…, which projects have for years to come."""
    with warnings.catch_warnings():
        kind = getattr(deprecation, "RemovedInDjango2028Warning", DeprecationWarning)
        warnings.filterwarnings("ignore", category=kind)
        yield


def project(environ: dict[str, str] | None = None, **changed: Any) -> Celeriac:
    """Return an app that reads these settings of Django's."""
    with override_settings(**{"DEBUG": False, "ADMINS": ADMINS, **changed}):
        app = Celeriac("mails", broker_url="memory://", environ=environ or {})
        app.config_from_object("django.conf:settings", namespace="SHOP")
    return app


def test_administrators_sender_and_server_are_djangos() -> None:
    server = {"EMAIL_HOST": "mail.example", "EMAIL_PORT": 587, "EMAIL_HOST_USER": "shop", "EMAIL_USE_TLS": True,
              "EMAIL_HOST_PASSWORD": "p/w", "EMAIL_TIMEOUT": 7}  # fmt: skip
    conf = project(SERVER_EMAIL="shop@example.org", EMAIL_BACKEND=SMTP, **server).conf
    assert conf.mail_admins == ["Ann <ann@example.org>"]
    assert (conf.mail_from, conf.mail_timeout) == ("shop@example.org", 7)
    assert conf.mail_url == "smtp://shop:p%2Fw@mail.example:587?tls=starttls"
    assert conf.task_send_error_emails is None


def test_settings_of_celeriac_count_more() -> None:
    conf = project(SHOP_MAIL_ADMINS=["bob@example.org"], SHOP_MAIL_URL="smtp://other.example:25?tls=none",
                   EMAIL_HOST="mail.example").conf  # fmt: skip
    assert (conf.mail_admins, conf.mail_url) == (["bob@example.org"], "smtp://other.example:25?tls=none")
    conf = project({"CELERIAC_MAIL_FROM": "env@example.org"}, SERVER_EMAIL="x@example.org").conf
    assert conf.mail_from == "env@example.org"


def test_failures_are_not_mailed_with_debug_as_djangos_own_are_not() -> None:
    assert project(DEBUG=True).conf.task_send_error_emails is False
    assert project(DEBUG=True, SHOP_TASK_SEND_ERROR_EMAILS=True).conf.task_send_error_emails is True


def test_addresses_that_no_mail_can_have_are_told_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(ADMINS=[("Root", "root")] if django.VERSION < (6, 0) else ["root"]):
        assert project(ADMINS=settings.ADMINS).conf.mail_admins == []
    assert "Set CELERIAC_MAIL_ADMINS" in caplog.text


def test_another_backend_of_djangos_sends_the_mail() -> None:
    mail.outbox = []
    with override_settings(EMAIL_BACKEND=LOCMEM):
        app = project(SERVER_EMAIL="shop@example.org", EMAIL_BACKEND=LOCMEM)
        assert str(mailer_of(app)) == f"Django's mail backend {LOCMEM}"
        post_test(app, app.conf.mail_admins)
    (sent,) = mail.outbox
    assert (sent.subject, sent.from_email, sent.to) == ("[mails] Test", "shop@example.org", ["Ann <ann@example.org>"])
    assert "This is a test." in sent.body
    assert "This is a test." in sent.alternatives[0][0]
    assert sent.extra_headers["Auto-Submitted"] == "auto-generated"
    assert sent.message()["Message-ID"].endswith("@mails.celeriac>")


def test_a_mail_url_of_celeriac_leaves_djangos_backend_out() -> None:
    with override_settings(EMAIL_BACKEND=LOCMEM):
        assert mailer_of(project(SHOP_MAIL_URL="smtp://mail.example:25?tls=none")) is None


def test_what_the_backend_raises_is_a_mail_error_that_is_tried_again() -> None:
    with override_settings(EMAIL_BACKEND="nowhere.Backend"):
        app = project()
        with pytest.raises(MailError, match=r"Django's mail backend nowhere\.Backend has not sent") as raised:
            post_test(app, app.conf.mail_admins)
    assert raised.value.temporary


@pytest.mark.skipif(django.VERSION < (6, 1), reason="MAILERS is new in Django 6.1")
def test_mailers_of_django_61_are_read() -> None:
    mailers = {"default": {"BACKEND": SMTP, "OPTIONS": {"host": "mail.example", "use_ssl": True, "port": 465}}}
    assert project(MAILERS=mailers).conf.mail_url == "smtp://mail.example:465?tls=ssl"
    with override_settings(MAILERS={"default": {"BACKEND": LOCMEM}}):
        assert mailer_of(project()) is not None
