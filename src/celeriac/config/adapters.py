"""Adapters of other packages: found by their entry points, loaded when a URL or a setting first names them.

A package brings an adapter with an entry point in the group `celeriac.brokers` or `celeriac.backends`. Its name is the
scheme of URLs, its value a module (or an object) that has

- `connect(url, *, clock, timeout, result_expires, codec, **settings)`, which returns the broker or backend;
- optionally a class `Settings`, in the form of `definitions.Definitions`. Its names begin with the scheme, or a word of
  it (`folder_fsync` for `folder://`); `connect` gets each without that word (`fsync`).

Installed packages are not searched for the schemes and settings of Celeriac itself. `app/connections.py` opens URLs;
`checks.py` looks up settings, which are checked before any URL is opened.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from celeriac.config.definitions import Setting, definitions_of
from celeriac.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["BACKENDS", "BROKERS", "Adapter", "installed", "installed_settings", "load", "setting_of_adapter"]

BROKERS = "celeriac.brokers"
BACKENDS = "celeriac.backends"


class Adapter:
    """An adapter of another package, loaded."""

    def __init__(self, connect: Any, settings: Mapping[str, Setting]) -> None:
        self.connect = connect
        self.settings = settings


def installed(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group, by scheme. Raises `ImproperlyConfigured` if two packages offer one scheme."""
    return _scan(group, tuple(sys.path))


@cache
def _scan(group: str, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    metadata = importlib.import_module("importlib.metadata")  # slow to import, and rarely needed
    for entry in metadata.entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if (other.value, _package(other)) != (entry.value, _package(entry)):
            raise ImproperlyConfigured(f"Two packages offer {entry.name}:// in {group}: {_package(other)} and "
                                       f"{_package(entry)}. Uninstall one of them.")  # fmt: skip
    return found


@cache
def load(entry: EntryPoint) -> Adapter:
    """Import an adapter. Raises `ImproperlyConfigured`, which names its package, if that fails."""
    try:
        found = entry.load()
        kind = getattr(found, "Settings", None)
        settings = definitions_of(kind) if kind is not None else {}
        connect = found.connect
    except Exception as error:
        raise ImproperlyConfigured(f"The adapter for {entry.name}:// ({entry.value}, of the package {_package(entry)}) "
                                   f"cannot be loaded: {type(error).__name__}: {error}. Reinstall or upgrade "
                                   f"{_package(entry)}.") from error  # fmt: skip
    for name in settings:
        word, _, rest = name.partition("_")
        if word not in _words(entry) or not rest:
            raise ImproperlyConfigured(f"The package {_package(entry)} defines the setting {name!r} for "
                                       f"{entry.name}://: its name must begin with '{_words(entry)[0]}_'.")  # fmt: skip
    return Adapter(connect, settings)


def setting_of_adapter(name: str) -> Setting | None:
    """Return the definition of a setting by an installed adapter, or None. Loads adapters with the setting's prefix."""
    word = name.partition("_")[0]
    for group in (BROKERS, BACKENDS):
        for entry in installed(group).values():
            if word in _words(entry) and name in (settings := load(entry).settings):
                return settings[name]
    return None


def installed_settings() -> list[str]:
    """Return the names of all settings of installed adapters. Adapters that cannot be loaded are left out."""
    names: list[str] = []
    for group in (BROKERS, BACKENDS):
        for entry in installed(group).values():
            try:
                names += load(entry).settings
            except ImproperlyConfigured:
                continue
    return names


def _words(entry: EntryPoint) -> list[str]:
    """Return the words of a scheme: `cache+memcached` has two."""
    return re.split(r"[+.-]", entry.name)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "?"
