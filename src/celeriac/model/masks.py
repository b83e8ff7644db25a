"""Hides passwords and keys in errors, logs, representations and the output of the command."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["masked", "masked_arguments"]

# Up to the last @, and with any number of slashes: better to mask too much than too little.
PASSWORD = re.compile(r"([a-z][a-z0-9+.-]{0,40}:/{0,3}[^/@\s:]*):\S*@", re.IGNORECASE)
SECRET = re.compile(r"([?&](?:password|passwd|secret|token|key)=)[^&\s]*", re.IGNORECASE)

# Names of arguments and of keys in them whose values are hidden.
SECRET_NAME = re.compile(
    r"pass(word|wd|phrase|code)|(^|_)(pass|pwd)$|secret|token|credential|authori[sz]ation|cookie|api_?key|private_?key"
    r"|card_?(number|no)|^(cc|pan|cvv|cvc|pin|ssn|iban|otp)$",
    re.IGNORECASE,
)

KEYS = frozenset({"security_keys", "web_secret"})  # settings that are hidden as a whole


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


def masked_arguments(value: Any, name: str = "") -> Any:
    """Return an argument with all replaced by `***` that a name in it tells to be secret: its own, or that of a key.

    >>> masked_arguments({"user": "ann", "api_key": "x", "url": "http://ann:x@host/"})
    {'user': 'ann', 'api_key': '***', 'url': 'http://ann:***@host/'}
    """
    if SECRET_NAME.search(name):
        return "***"
    if isinstance(value, dict):
        return {key: masked_arguments(item, key if isinstance(key, str) else "") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_arguments(item) for item in value]
    return masked(value)
