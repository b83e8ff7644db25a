"""Django as the framework of an app (`ports/framework.py`).

`app/frameworks.py` calls `connect` when an app reads its settings from `django.conf:settings`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import django
from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured as DjangoImproperlyConfigured
from django.db import transaction
from django.utils.module_loading import import_string

from celeriac.contrib.django import connections, instances, mail, shared_file
from celeriac.errors import ImproperlyConfigured
from celeriac.ports.framework import Mailer

__all__ = ["DjangoFramework", "connect"]

SKIP_CHECKS = "CELERIAC_SKIP_CHECKS"
OURS = "celeriac.contrib.django"
BACKEND = f"{OURS}.tasks"

Result = TypeVar("Result")


class DjangoFramework:
    """What Django does for an app."""

    def settings(self) -> Mapping[str, Any]:
        """Return what Django's settings say of mails."""
        return mail.mail_settings()

    def mailer(self) -> Mailer | None:
        """Return what sends mails, if Django's settings name no mail server."""
        return mail.mailer()

    def set_up(self, app: Any) -> None:
        """Call `django.setup()`, unless it was called or is at work, and register the task of `django.tasks`."""
        if not apps.ready and not apps.loading:
            try:
                django.setup()
            except DjangoImproperlyConfigured as error:
                raise ImproperlyConfigured(f"Django cannot be set up: {error}") from error
        _register_tasks(app)

    def packages(self) -> Iterable[str]:
        """Return the packages of `INSTALLED_APPS`, this one apart."""
        return [config.name for config in apps.get_app_configs() if config.name != OURS]

    def before_work(self) -> None:
        """Run Django's system checks, unless `CELERIAC_SKIP_CHECKS` is set, and close database connections."""
        if os.environ.get(SKIP_CHECKS, "").lower() in ("", "0", "false", "no", "off"):
            _check()
        connections.close_before_work()

    def on_commit(self, send: Callable[[], None], using: str | None, robust: bool) -> None:
        """Call a function when a transaction commits."""
        transaction.on_commit(send, using=using, robust=robust)

    def opened(self, port: Any) -> None:
        """Make a broker or backend part of Django's transactions, if it is in a SQLite file of Django's."""
        shared_file.share(port)

    def sends_within(self, port: Any, using: str | None) -> bool:
        """Return whether what a broker or backend writes now is part of an open transaction of a database."""
        return shared_file.sends_within(port, using)

    async def in_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call a function in the thread in which Django's own coroutines use the database."""
        result: Result = await sync_to_async(function)(*args)
        return result


def connect() -> DjangoFramework:
    """Return Django as a framework. Connects what happens between tasks, and what arguments may be, once."""
    connections.connect()
    instances.connect()
    shared_file.connect()
    return DjangoFramework()


def _register_tasks(app: Any) -> None:
    """Let an app run Django's tasks, if a backend in the setting TASKS is Celeriac's."""
    for params in (getattr(settings, "TASKS", None) or {}).values():
        kind = import_string(params["BACKEND"])
        if any(base.__module__ == BACKEND for base in kind.__mro__):
            backend = importlib.import_module(BACKEND)  # its framework is optional on Django 5.2
            backend.register(app, backend.CeleriacBackend)
            return


def _check() -> None:
    """Log Django's warnings. Raises `ImproperlyConfigured` with its errors, as `manage.py` does."""
    found = [message for message in checks.run_checks() if not message.is_silenced()]
    serious = [message for message in found if message.is_serious()]
    for message in found:
        if message not in serious and message.level >= checks.WARNING:
            connections.log.warning("Django's system check: %s", message)
    if serious:
        lines = "\n".join(f"  - {message}" for message in serious)
        raise ImproperlyConfigured(f"Django's system checks found {len(serious)} error{'s'[:len(serious) > 1]}:\n"
                                   f"{lines}\nCorrect them, or start with {SKIP_CHECKS}=1.")  # fmt: skip
