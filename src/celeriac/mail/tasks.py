"""The built-in task `celeriac.mail`, which sends a mail from a child of a worker, and the messages for it.

`worker/mailer.py` sends messages about failures, `app.mail_admins` those of the user. If the server does not take the
mail, the task is retried over a day. Nothing is mailed about its own failures: they are in the log and the history.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from celeriac.errors import ImproperlyConfigured, MailError, SoftTimeLimitExceeded
from celeriac.tasks.builtin_names import MAIL
from celeriac.tasks.protocols import App
from celeriac.tasks.task import Task

__all__ = ["check_mail", "mail_call", "mail_options", "mail_tasks"]

PRIORITY: Final = 9
RETRIES: Final = 20  # with these pauses, for a day
FIRST_PAUSE: Final = 10.0  # seconds
LONGEST_PAUSE: Final = 10_800.0
ANSWERS: Final = 12.0  # a server that takes its full time for each of so many answers is given up


def mail_tasks(app: App) -> dict[str, Task[Any, Any]]:
    """Return the built-in task of an app that sends mails."""

    def mail(self: Task[Any, Any], letter: dict[str, Any], to: list[str] | None = None) -> None:
        # It takes long to import, with `email` and `smtplib`, and only those who send mails need it.
        post = importlib.import_module("celeriac.mail.post")
        try:
            post.post_letter(app, letter, to, str(self.request.id))
        except SoftTimeLimitExceeded as error:
            raise self.retry(exc=MailError("The mail server takes too long.")) from error
        except ImproperlyConfigured as error:  # of this worker: others may have other settings
            raise self.retry(exc=error) from error
        except MailError as error:
            if not error.temporary:
                raise
            raise self.retry(exc=error, kwargs={"to": error.undelivered} if error.undelivered else None) from error

    options = {"max_retries": RETRIES, "retry_backoff": FIRST_PAUSE, "retry_backoff_max": LONGEST_PAUSE,
               "priority": PRIORITY, "ignore_result": False, "rate_limit": None, "time_limit": None}  # fmt: skip
    return {MAIL: Task(app, mail, MAIL, options, bind=True)}


def check_mail(app: App) -> None:
    """Raise `ImproperlyConfigured` if there is nobody to mail to."""
    if not app.conf.mail_admins:
        raise ImproperlyConfigured("There is nobody to mail to: set `mail_admins` to a list of addresses.")


def mail_options(app: App, queue: str | None = None) -> dict[str, Any]:
    """Return the options of a message: the queue, unless `task_routes` names one, and a time limit."""
    options: dict[str, Any] = {"soft_time_limit": ANSWERS * app.conf.mail_timeout}
    if queue is not None and "queue" not in app.routes.route(MAIL):
        options["queue"] = queue
    return options


def mail_call(app: App, subject: str, body: str) -> dict[str, Any]:
    """Return the argument of the task for a mail of the user's. Raises `TypeError` for what is no text."""
    for name, value in (("subject", subject), ("body", body)):
        if not isinstance(value, str):
            raise TypeError(f"mail_admins: {name} must be text, not {value!r}")
    return {"subject": subject, "body": body, "at": app.clock.now()}
