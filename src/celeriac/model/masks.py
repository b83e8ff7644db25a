"""Hides passwords and keys in errors, logs, representations and the output of the command."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

__all__ = ["masked", "masked_arguments"]

# Up to the last @, and with any number of slashes: better to mask too much than too little.
IN_URL = r"([a-z][a-z0-9+.-]{0,40}:/{0,3}[^/@\s:]*):\S*@"
IN_QUERY = r"([?&](?:password|passwd|secret|token|key)=)[^&\s]*"

# Names of arguments and of keys in them whose values are hidden.
SENSITIVE = (
    r"pass(word|wd|phrase|code)|(^|_)(pass|pwd)$|secret|token|credential|authori[sz]ation|cookie|api_?key|private_?key"
    r"|card_?(number|no)|^(cc|pan|cvv|cvc|pin|ssn|iban|otp)$"
)

KEYS = frozenset({"security_keys", "web_callback_secrets", "web_secret"})  # settings that are hidden as a whole


def masked(value: Any) -> Any:
    """Return a value with the passwords of all its URLs replaced by `***`.

    >>> masked({"broker_url": "redis://user:secret@host/0"})
    {'broker_url': 'redis://user:***@host/0'}
    """
    if isinstance(value, str):
        return _pattern(IN_QUERY).sub(r"\1***", _pattern(IN_URL).sub(r"\1:***@", value))
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
    if _pattern(SENSITIVE).search(name):
        return "***"
    if isinstance(value, dict):
        return {key: masked_arguments(item, key if isinstance(key, str) else "") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_arguments(item) for item in value]
    return masked(value)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Return a pattern, compiled when it is first used: most programs mask nothing."""
    return re.compile(text, re.IGNORECASE)
