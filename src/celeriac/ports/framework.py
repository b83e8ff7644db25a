"""The port of a web framework: what a project's framework does for an app.

`celeriac.contrib.django` implements it. `app/frameworks.py` finds it by the settings that the app reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from email.message import EmailMessage

__all__ = ["Framework", "Mailer"]

Result = TypeVar("Result")


class Mailer(Protocol):
    """Sends mails as the framework's settings say. Its text (`str`) says what it is."""

    def send(self, message: EmailMessage, recipients: Sequence[str]) -> None:
        """Send a mail to these addresses. Raises `MailError`."""


class Framework(Protocol):
    """A framework that a project is built on, as an app sees it."""

    def settings(self) -> Mapping[str, Any]:
        """Return settings of the app that the framework's own say. They count where nothing else sets them."""

    def mailer(self) -> Mailer | None:
        """Return what sends mails where no `mail_url` is set; None: the server of the default."""

    def set_up(self, app: Any) -> None:
        """Load the framework's own modules. Called before those with tasks are imported, perhaps many times."""

    def packages(self) -> Iterable[str]:
        """Return the packages whose tasks `autodiscover_tasks` finds."""

    def before_work(self) -> None:
        """Check the project, and close what no other process may inherit.

        Called once by a worker, before it forks or starts a thread. Raises `ImproperlyConfigured`.
        """

    def on_commit(self, send: Callable[[], None], using: str | None, robust: bool) -> None:
        """Call a function when the transaction of a database commits: at once, if there is none; never, if it rolls
        back. With `robust`, what the function raises is logged."""

    def opened(self, port: Any) -> None:
        """Look at a broker or backend that an app has made. If it keeps its data in a database of the framework's,
        what a thread writes there is part of the transaction that it has open."""

    def sends_within(self, port: Any, using: str | None) -> bool:
        """Return whether what a broker or backend writes now is part of an open transaction of a database, so that
        nothing needs to wait for the commit."""

    async def in_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        """Return the result of a function that uses the framework's database, called from a coroutine."""
