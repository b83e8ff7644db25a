"""Imports what sends HTTP requests: the client is an extra, and it takes longer to import than all of Celeriac.

A worker does so before it forks its children, if its app has HTTP tasks or callbacks; a coroutine that runs elsewhere
does so on its first request.
"""

from __future__ import annotations

import importlib
from typing import Any

from celeriac.errors import ImproperlyConfigured

__all__ = ["driver"]


def driver(name: str) -> Any:
    """Return the module `calling` or `delivery`. Raises `ImproperlyConfigured` without the extra."""
    try:
        return importlib.import_module(f"celeriac.http.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "celeriac":
            raise
        raise ImproperlyConfigured("HTTP tasks and callbacks are sent with httpx2: "
                                   "pip install 'celeriac[http]'.") from error  # fmt: skip
