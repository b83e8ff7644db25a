"""Reads settings from modules, objects, TOML files and environment variables. The latter are checked here."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from celeriac.config.celery_mail import is_celery_mail_name
from celeriac.config.checks import check, find, stands_for
from celeriac.errors import ImproperlyConfigured
from celeriac.lazy import LazyModule

if TYPE_CHECKING:
    import tomllib
else:
    tomllib = LazyModule("tomllib")

__all__ = ["from_environment", "from_object", "from_toml"]

ENVIRONMENT_PREFIX = "CELERIAC_"
NOT_SETTINGS = ("CELERIAC_APP", "CELERIAC_SKIP_CHECKS", "CELERIAC_TEST_", "CELERIAC_DEMO_")
"""Environment variables that begin like settings and are not."""


def from_object(source: Any, namespace: str = "") -> dict[str, Any]:
    """Read settings from a module (or its dotted name), a class, an object or a mapping.

    With a namespace only names that begin with it count: `from_object("django.conf:settings", "CELERIAC")`
    reads `CELERIAC_BROKER_URL`. Without one, lower-case names count; the names of settings in capitals, as Celery 3
    had them, are returned too, and so refused, unless the source has the same setting by its name.
    """
    if isinstance(source, str):
        source = _imported(source)
    is_mapping = isinstance(source, Mapping)
    names = list(source) if is_mapping else [name for name in dir(source) if not name.startswith("__")]
    get = source.__getitem__ if is_mapping else partial(getattr, source)
    if namespace:  # no other names are read: Django warns of some
        prefix = namespace.upper() + "_"
        return {name[len(prefix) :].lower(): get(name) for name in names if name.startswith(prefix)}
    items = {name: get(name) for name in names}
    if is_mapping:
        return items
    return {
        name: value
        for name, value in items.items()
        if (name == name.lower() or is_celery_mail_name(name) or _is_forgotten(name, items))
        and not name.startswith("_")
        and not isinstance(value, ModuleType | type)
        and (not callable(value) or find(name) is not None)
    }


def _is_forgotten(name: str, items: Mapping[str, Any]) -> bool:
    """Return whether this name in capitals is a setting of Celery 3, `CELERY_RESULT_BACKEND`, or one in capitals."""
    if not name.startswith(("CELERY", "CELERIAC_", "BROKER_URL")) or not name.isupper():
        return False
    meant = stands_for(name)
    return meant is not None and meant not in items


def _imported(name: str) -> Any:
    """Return a module, or a part of it after a colon."""
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(f"The configuration module {module!r} cannot be imported: {error}.") from error
    for part in filter(None, attribute.split(".")):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ImproperlyConfigured(f"There is no configuration {module}:{attribute}: {error}.") from error
    return found


def from_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read settings from a TOML file: the table `[tool.celeriac]` of a pyproject.toml, otherwise the whole file."""
    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(f"The configuration file {os.fspath(path)!r} cannot be read: {error}.") from error
    if os.path.basename(path) == "pyproject.toml":
        found: dict[str, Any] = data.get("tool", {}).get("celeriac", {})
        return found
    return data


def from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """Read and check settings from environment variables (`CELERIAC_TASK_ACKS_LATE=0`); add mistakes to `problems`."""
    found: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.startswith(NOT_SETTINGS):
            continue
        name = variable[len(ENVIRONMENT_PREFIX) :].lower()
        try:
            found[name] = check(name, _parse(name, text))
        except ImproperlyConfigured as error:
            problems.append(f"{variable} in the environment: {error}")
    return found


def _parse(name: str, text: str) -> Any:
    """Read an environment variable as its setting's type: as JSON if it is JSON, otherwise as words between commas.

    Raises `ImproperlyConfigured` for what only begins as JSON.
    """
    setting = find(name)
    kind = setting.type if setting is not None else str
    if text == "" and type(None) in get_args(kind):
        return None
    if kind is str or (kind != list[str] and str in get_args(kind)):
        return text
    if kind is bool and text.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        return text.lower() in ("1", "true", "yes", "on")
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        if text.lstrip().startswith(("[", "{")):
            raise ImproperlyConfigured(f"this is no JSON: {error}.") from None
        return [word.strip() for word in text.split(",") if word.strip()] if kind == list[str] else text
