"""Checks a setting's name and value, and converts the value to its plain form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import UnionType
from typing import Any, get_args

import msgspec

from celeriac.config.adapters import installed_settings, setting_of_adapter
from celeriac.config.celery_mail import CELERY_MAIL_NAMES
from celeriac.config.celery_settings import NOT_NEEDED, RENAMED
from celeriac.config.definitions import DEFINITIONS, Setting
from celeriac.errors import ImproperlyConfigured, nearest
from celeriac.model.clock import seconds
from celeriac.model.masks import masked
from celeriac.model.options import check_limits

__all__ = ["PREFIXES", "check", "check_together", "find", "meant", "stands_for"]

PREFIXES = ("CELERY_", "CELERIAC_")
"""What the names of settings begin with in Django's settings, or in the environment."""

WORDS = {
    bool: "True or False",
    int: "a whole number",
    list[str]: "a list of names",
    str: "text",
    type(None): "None",
}


def find(name: str) -> Setting | None:
    """Return the definition of a setting of Celeriac or of an installed adapter, or None."""
    return DEFINITIONS.get(name) or setting_of_adapter(name)


def check(name: str, value: Any) -> Any:
    """Return a value in its setting's plain form. Raises `ImproperlyConfigured` for a wrong name or value."""
    setting = find(name)
    if setting is None:
        if name in NOT_NEEDED:
            raise ImproperlyConfigured(f"{name} is not needed: {NOT_NEEDED[name]}.")
        raise ImproperlyConfigured(f"There is no setting {name!r}.{meant(name)}")
    kind = setting.type
    if value is None and type(None) in get_args(kind):
        return None
    value = _converted(name, value, kind)
    for rule in setting.rules:
        try:
            value = rule(value)
        except (ValueError, ImproperlyConfigured) as error:
            text = str(error)
            raise ImproperlyConfigured(text if text.startswith(name) else f"{name}: {text}") from None
    if isinstance(value, int | float) and value < 0:
        raise ImproperlyConfigured(f"{name}: 0 or more, not {value!r}.")
    return value


def check_together(values: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the values of all settings, each of which is right; None if nothing is."""
    try:
        check_limits(values["task_soft_time_limit"], values["task_time_limit"], prefix="task_")
    except ValueError as error:
        return str(error)
    return None


def _converted(name: str, value: Any, kind: Any) -> Any:
    """Return a value as its setting's type."""
    if timedelta in get_args(kind):
        try:
            value = seconds(value)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{name}: {error}.") from None
    elif isinstance(value, tuple | set | frozenset):
        value = list(value)
    try:
        return msgspec.convert(value, kind) if kind is not Any else value
    except msgspec.ValidationError as error:
        shown = masked({name: value})[name]
        if (wanted := _words(kind)) is None:
            raise ImproperlyConfigured(f"{name}: {error}, got {shown!r}.") from None
        raise ImproperlyConfigured(f"{name} takes {wanted}, not {shown!r}.") from None


def meant(name: str) -> str:
    """Return " Did you mean …?" for a name that is not a setting: one of Celery's, in capitals, or misspelt."""
    if name in CELERY_MAIL_NAMES:
        return f" Did you mean {CELERY_MAIL_NAMES[name]!r}?"
    if name in RENAMED:
        return f" Did you mean {RENAMED[name]!r}?"
    if name.isupper():
        if (known := stands_for(name)) is not None:
            return f" Did you mean {known!r}?"
        return meant(_without_prefix(name))
    return nearest(name, [*DEFINITIONS, *installed_settings()])


def stands_for(name: str) -> str | None:
    """Return the setting that is meant by a name in capitals: one of Celery 3's, or a setting's own."""
    name = _without_prefix(name)
    name = RENAMED.get(name, name)
    return name if find(name) is not None else None


def _without_prefix(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name.lower()


def _words(kind: Any) -> str | None:
    """Return the values of a type in words, or None for a type other than a plain one."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    words = [WORDS.get(one) for one in kinds]
    return None if None in words else " or ".join(filter(None, words))
