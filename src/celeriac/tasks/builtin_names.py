"""The names of the built-in tasks, which every worker knows; `app/builtin_tasks.py` makes them when they are needed."""

from __future__ import annotations

from typing import Final

from celeriac.tasks.protocols import App

__all__ = ["GATHER", "MAIL", "MAP", "STARMAP", "WEBHOOK", "sends_callbacks"]

GATHER: Final = "celeriac.gather"  # returns its argument
MAP: Final = "celeriac.map"
STARMAP: Final = "celeriac.starmap"
MAIL: Final = "celeriac.mail"
WEBHOOK: Final = "celeriac.webhook"


def sends_callbacks(app: App) -> bool:
    """Return whether an app is configured to send callbacks, with the task `celeriac.webhook`."""
    return bool(app.conf.web_callback_hosts and app.conf.web_callback_secrets)
