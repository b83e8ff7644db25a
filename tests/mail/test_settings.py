"""The settings of mails, also under Celery's old names; the password of the mail server is shown nowhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from celeriac import Celeriac
from celeriac.errors import ImproperlyConfigured, MailError, UnknownOption
from celeriac.mail.post import post_test
from celeriac.model.mail_server import MailServer
from celeriac.tasks.task import Task

SECRET = "s3cr3t"
OLD = {
    "ADMINS": (("Ann", "ann@example.org"), ("Bob", "bob@example.org")),
    "SERVER_EMAIL": "celery@example.org",
    "EMAIL_HOST": "mail.example.org",
    "EMAIL_PORT": 587,
    "EMAIL_HOST_USER": "shop",
    "EMAIL_HOST_PASSWORD": "s3/cr3t",
    "EMAIL_USE_TLS": True,
    "EMAIL_TIMEOUT": 2,
    "CELERY_SEND_TASK_ERROR_EMAILS": True,
    "CELERY_TASK_ERROR_WHITELIST": (KeyError, "shop.Declined"),
}
OURS = {
    "mail_admins": ["Ann <ann@example.org>", "Bob <bob@example.org>"],
    "mail_from": "celery@example.org",
    "mail_url": "smtp://shop:s3%2Fcr3t@mail.example.org:587?tls=starttls",
    "mail_timeout": 2.0,
    "task_send_error_emails": True,
    "mail_on": ["error:builtins.KeyError", "error:shop.Declined"],
}


# --- The server ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "port", "tls"),
    [
        ("smtp://mail.example", 587, "starttls"),
        ("smtp://mail.example:25", 25, "starttls"),
        ("smtp://mail.example?tls=none", 25, "none"),
        ("smtp://mail.example?tls=ssl", 465, "ssl"),
        ("smtps://mail.example", 465, "ssl"),
        ("smtp://localhost", 25, "none"),
        ("smtp://[::1]:2525", 2525, "none"),
        ("smtp://u:p@localhost?tls=starttls", 587, "starttls"),
    ],
)
def test_a_server_elsewhere_is_encrypted_unless_the_url_says_otherwise(url: str, port: int, tls: str) -> None:
    server = MailServer.of(url)
    assert (server.port, server.tls) == (port, tls)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://mail.example", "begins with smtp:// or smtps://"),
        ("mail.example", "begins with smtp:// or smtps://"),
        ("smtp://", "with a host"),
        ("smtp://mail.example/inbox", "without a path"),
        ("smtp://mail.example:port", "that can be read"),
        ("smtp://mail.example?tls=yes", "tls=starttls, tls=ssl or tls=none, not tls=yes"),
        ("smtps://mail.example?tls=none", "smtps:// is tls=ssl"),
        ("smtp://mail.example?timeout=3", "no option 'timeout'"),
        ("smtp://mail.example?ssl_cert_reqs=maybe", "ssl_cert_reqs=required"),
        (f"smtp://user:{SECRET}/x@mail.example", "%2F %3F %23"),
        (f"smtp://user:{SECRET}?x@mail.example", "%2F %3F %23"),
        (f"smtp://user:{SECRET}#x@mail.example", "%2F %3F %23"),
        ("smtp://user@mail.example", "a user and a password, or neither"),
        (f"smtp://:{SECRET}@mail.example", "a user and a password, or neither"),
        (f"smtp://user:{SECRET} x@mail.example", "without spaces"),
        (f"smtp://user:{SECRET}\r\nx@mail.example", "without spaces"),
    ],
)
def test_a_url_that_is_wrong_is_refused_without_showing_the_password(url: str, reason: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        Celeriac("x", mail_url=url)
    assert str(caught.value).startswith("mail_url: ")
    assert reason in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_password_is_in_no_representation_error_log_and_warning(caplog: pytest.LogCaptureFixture) -> None:
    url = f"smtp://user:{SECRET}@nobody.invalid?tls=none"
    server = MailServer.of(url)
    assert server.password == SECRET
    app = Celeriac("x", mail_url=url, mail_admins=["ann@example.org"], broker_url="memory://x")
    with caplog.at_level(logging.DEBUG), pytest.raises(MailError) as caught:
        post_test(app, ["ann@example.org"])
    with pytest.raises(ImproperlyConfigured) as wrong:
        app.conf.mail_url = {"url": url}
    with pytest.warns(FutureWarning, match="EMAIL_HOST_PASSWORD") as warned:
        Celeriac("x", EMAIL_HOST="h", EMAIL_HOST_USER="user", EMAIL_HOST_PASSWORD=SECRET)
    shown = [repr(server), str(server), f"{[server]}", repr(app), repr(app.conf), str(caught.value), str(wrong.value),
             caplog.text, *(str(one.message) for one in warned)]  # fmt: skip
    assert SECRET not in "\n".join(shown)
    assert "smtp://user:***@nobody.invalid?tls=none" in repr(app.conf)


# --- Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("mail_admins", ["ann"], "'ann' is no address"),
        ("mail_admins", 7, "a list of addresses"),
        ("mail_admins", [7], "an address is text"),
        ("mail_admins", [("Ann\r\nBcc: x@example.org", "ann@example.org")], "is no address"),
        ("mail_from", "x@example.org\r\nBcc: y@example.org", "is no address"),
        ("mail_timeout", 0, "more than 0"),
        ("mail_max_per_hour", 0, "more than 0"),
        ("mail_on", "ValueError", "a list, "),
        ("mail_on", [7], "names of exceptions"),
        ("mail_on", ["queue:mail"], "other conditions than task: and error:"),
        ("mail_not_on", ["nosuch:x"], "There is no condition 'nosuch'"),
        ("task_send_error_emails", "perhaps", "True or False or None"),
    ],
)
def test_a_value_that_is_wrong_is_refused(name: str, value: Any, reason: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        Celeriac("x", **{name: value})
    assert str(caught.value).startswith(name)
    assert reason in str(caught.value)


def test_addresses_can_be_in_the_environment() -> None:
    environ = {"CELERIAC_MAIL_ADMINS": "Ann <ann@example.org>, bob@example.org", "CELERIAC_MAIL_ON": '["KeyError"]'}
    conf = Celeriac("x", environ=environ).conf
    assert conf.mail_admins == ["Ann <ann@example.org>", "bob@example.org"]
    assert conf.mail_on == ["error:KeyError"]


# --- Celery's names -----------------------------------------------------------------------------------


def given(app: Celeriac) -> dict[str, Any]:
    return {name: getattr(app.conf, name) for name in OURS}


def from_keywords(app: Callable[[], Celeriac]) -> Celeriac:
    return Celeriac("x", **OLD)


def from_mapping(app: Callable[[], Celeriac]) -> Celeriac:
    made = app()
    made.config_from_object(OLD)
    return made


def from_module(app: Callable[[], Celeriac]) -> Celeriac:
    module = ModuleType("celeryconfig")
    module.__dict__.update(OLD, DEBUG=True)
    made = app()
    made.config_from_object(module)
    return made


def from_lower_case(app: Callable[[], Celeriac]) -> Celeriac:
    made = app()
    made.config_from_object(SimpleNamespace(**{name.lower().removeprefix("celery_"): OLD[name] for name in OLD}))
    return made


@pytest.mark.parametrize("way", [from_keywords, from_mapping, from_module, from_lower_case])
def test_celerys_names_are_accepted_and_told_as_old(way: Any, make_app: Callable[..., Celeriac]) -> None:
    with pytest.warns(FutureWarning, match="Old names of Celery 3") as warned:
        app = way(make_app)
    assert given(app) == OURS
    told = "\n".join(str(one.message) for one in warned)
    assert all(name.removeprefix("CELERY_") in told for name in OLD)
    assert all(name in told for name in OURS)


def test_a_namespace_reads_the_names_that_begin_with_it(make_app: Callable[..., Celeriac]) -> None:
    app = make_app()
    with pytest.warns(FutureWarning, match="Old names of Celery 3"):
        app.config_from_object({**OLD, "DEBUG": True}, namespace="CELERY")
    assert app.conf.task_send_error_emails is True
    assert app.conf.mail_admins == []


def test_our_names_win_over_celerys() -> None:
    with pytest.warns(FutureWarning, match="Old names of Celery 3"):
        app = Celeriac("x", mail_admins=["me@example.org"], **OLD)
    assert app.conf.mail_admins == ["me@example.org"]


@pytest.mark.parametrize(("name", "ours"), [("admins", "mail_admins"), ("EMAIL_HOST", "mail_url")])
def test_an_assignment_by_a_name_of_celerys_is_answered_with_ours(
    name: str, ours: str, make_app: Callable[..., Celeriac]
) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"Did you mean '{ours}'"):
        setattr(make_app().conf, name, [])


def test_a_task_says_whether_its_failures_are_mailed(make_app: Callable[..., Celeriac]) -> None:
    app = make_app()

    @app.task(name="quiet", mail=False)
    def quiet() -> None: ...

    @app.task(name="loud")
    def loud() -> None: ...

    assert (quiet.options.get("mail"), loud.options.get("mail")) == (False, None)
    with pytest.raises(TypeError, match="mail must be True or False"):
        app.task(mail="no")(lambda: None)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("attribute", "instead"),
    [("send_error_emails", "`mail`"), ("disable_error_emails", "`mail`"), ("error_whitelist", "`mail_on`"),
     ("ErrorMail", "docs/howto/mail.md")],
)  # fmt: skip
def test_attributes_of_celerys_task_classes_say_what_to_do_instead(
    attribute: str, instead: str, make_app: Callable[..., Celeriac]
) -> None:
    kind: Any = type("Old", (Task,), {attribute: True, "run": lambda self: None})
    with pytest.raises(UnknownOption, match=instead):
        make_app().register_task(kind)
