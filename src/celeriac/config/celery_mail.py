"""Celery 3's settings of mails, under the names that they have here.

Celery has them no more; Celeriac accepts them, and warns of each. `Settings.update` and `from_object` call this.
Django's own settings are not read here: `contrib/django/mail.py` does that.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from celeriac.lazy import LazyModule
from celeriac.model.masks import masked

if TYPE_CHECKING:
    from urllib import parse
else:
    parse = LazyModule("urllib.parse")

__all__ = ["CELERY_MAIL_NAMES", "is_celery_mail_name", "smtp_url", "with_celery_mail_names"]

CELERY_MAIL_NAMES: Final = {
    "send_task_error_emails": "task_send_error_emails",
    "task_error_whitelist": "mail_on",
    "admins": "mail_admins",
    "server_email": "mail_from",
    "email_timeout": "mail_timeout",
    "email_host": "mail_url",
    "email_port": "mail_url",
    "email_host_user": "mail_url",
    "email_host_password": "mail_url",
    "email_use_ssl": "mail_url",
    "email_use_tls": "mail_url",
}
"""Celery's names in lower case, and ours. Several of them are parts of `mail_url`."""

PARTS: Final = tuple(name for name, ours in CELERY_MAIL_NAMES.items() if ours == "mail_url")


def is_celery_mail_name(name: str) -> bool:
    """Return whether this is one of Celery's names, in capitals or not."""
    return _plain(name) in CELERY_MAIL_NAMES


def _plain(name: str) -> str:
    return name.lower().removeprefix("celery_") if name.isupper() else name


def with_celery_mail_names(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings with Celery's names of mails replaced by ours, which win if both are given."""
    given = {_plain(name): value for name, value in values.items() if is_celery_mail_name(name)}
    if not given:
        return values
    made = {CELERY_MAIL_NAMES[name]: value for name, value in given.items() if name not in PARTS}
    if any(name in given for name in PARTS):
        made["mail_url"] = _url(given)
    ours = {name: value for name, value in values.items() if not is_celery_mail_name(name)}
    for name, value in made.items():
        old = ", ".join(known.upper() for known in given if CELERY_MAIL_NAMES[known] == name)
        shown = f"mail_url = {masked(value)!r}" if name == "mail_url" else f"`{name}`"
        warnings.warn(f"Old names of Celery 3: {old}. Set {shown} instead.", FutureWarning, stacklevel=4)
    return {**made, **ours}


def _url(given: Mapping[str, Any]) -> str:
    return smtp_url(given.get("email_host"), given.get("email_port"), given.get("email_host_user"),
                    given.get("email_host_password"), bool(given.get("email_use_ssl")),
                    bool(given.get("email_use_tls")))  # fmt: skip


def smtp_url(host: Any, port: Any, user: Any, password: Any, use_ssl: bool, use_tls: bool) -> str:
    """Return the `mail_url` of a server.

    >>> smtp_url("mail.example", 587, "ann", "a/b", False, True)
    'smtp://ann:a%2Fb@mail.example:587?tls=starttls'
    """
    credentials = f"{parse.quote(str(user), '')}:{parse.quote(str(password), '')}@" if user and password else ""
    tls = "ssl" if use_ssl else "starttls" if use_tls else "none"
    name = str(host or "localhost")
    return f"smtp://{credentials}{f'[{name}]' if ':' in name else name}:{port or 25}?tls={tls}"
