"""Hides passwords and keys in errors, logs, representations and the output of the command."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["masked"]

# Up to the last @, and with any number of slashes: better to mask too much than too little.
PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*:/{0,3}[^/@\s:]*):\S*@", re.IGNORECASE)
SECRET = re.compile(r"([?&](?:password|passwd|secret|token|key)=)[^&\s]*", re.IGNORECASE)

KEYS = frozenset({"security_keys", "web_callback_secrets", "web_secret"})  # settings that are hidden as a whole


def masked(value: Any) -> Any:
    """Return a value with the passwords of all its URLs replaced by `***`.

    >>> masked({"broker_url": "redis://user:secret@host/0"})
    {'broker_url': 'redis://user:***@host/0'}
    """
    if isinstance(value, str):
        return SECRET.sub(r"\1***", PASSWORD.sub(r"\1:***@", value))
    if isinstance(value, dict):
        return {name: "***" if name in KEYS else masked(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return value
