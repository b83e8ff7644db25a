"""`app.conf`: the values of all settings.

Values come from keywords, a module or object, a TOML file, and the environment (`CELERIAC_TASK_ACKS_LATE=0`), each over
the one before it; an assignment to `app.conf.name` overrides them all. All mistakes are reported in one error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from typing import Any

from celeriac.config.celery_mail import with_celery_mail_names
from celeriac.config.checks import check, check_together, find, meant
from celeriac.config.definitions import DEFINITIONS, Definitions
from celeriac.config.sources import from_environment
from celeriac.errors import ImproperlyConfigured
from celeriac.model.masks import masked

__all__ = ["Settings", "received_max_bytes"]


class Settings(Definitions):
    """`app.conf`: read and assign settings as attributes; an assignment is checked."""

    def __init__(self, values: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.__dict__["_pinned"] = frozenset()
        self.__dict__["_proposed"] = {}
        self.__dict__["_on_change"] = []
        for name, setting in DEFINITIONS.items():
            self.__dict__[name] = _own(setting.default)
        problems: list[str] = []
        found = from_environment(environ or {}, problems)
        self.update(values or {}, _problems=problems)
        self.update(found)
        self.__dict__["_pinned"] = frozenset(found)

    def update(self, values: Mapping[str, Any] | None = None, /, *, _problems: Iterable[str] = (), _named: str = "{}",
               **more: Any) -> None:  # fmt: skip
        """Set many at once; names that the environment sets keep its values. All mistakes in one error."""
        problems = list(_problems)
        checked: dict[str, Any] = {}
        for name, value in with_celery_mail_names({**(values or {}), **more}).items():
            try:
                checked[name] = check(name, value)
            except ImproperlyConfigured as error:
                written = _named.format(name.upper()) if _named != "{}" else name
                problems.append(str(error) if written == name else f"{written}: {error}")
        checked = {name: value for name, value in checked.items() if name not in self._pinned}
        if (problem := check_together({**self.__dict__, **checked})) is not None:
            problems.append(problem)
        if problems:
            raise ImproperlyConfigured(_report(problems))
        self.__dict__.update(checked)
        self._changed()

    def propose(self, values: Mapping[str, Any]) -> None:
        """Set those that have their defaults: anybody else's values count more."""
        given = self.changed()
        proposed = {name: value for name, value in values.items() if name not in given}
        self.update(proposed)
        self.__dict__["_proposed"] = {name: self.__dict__[name] for name in proposed}

    def is_proposed(self, name: str) -> bool:
        """Return whether a setting has the value that `propose` has given it."""
        return name in self._proposed and bool(self._proposed[name] == self.__dict__[name])

    def is_default(self, name: str) -> bool:
        """Return whether a setting has its default."""
        return bool(self.__dict__[name] == DEFINITIONS[name].default)

    def __setattr__(self, name: str, value: Any) -> None:
        value = check(name, value)
        if (problem := check_together({**self.__dict__, name: value})) is not None:
            raise ImproperlyConfigured(problem)
        self.__dict__[name] = value
        self._changed()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        setting = find(name)  # of an adapter, and never set
        if setting is None:
            raise AttributeError(f"There is no setting {name!r}.{meant(name)}")
        return _own(setting.default)

    def __iter__(self) -> Iterator[str]:
        yield from DEFINITIONS
        for name in list(self.__dict__):  # settings of adapters that were set
            if name not in DEFINITIONS and not name.startswith("_"):
                yield name

    def __repr__(self) -> str:
        return f"<Settings {masked(self.changed())!r}>"

    def changed(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults."""
        found = ((name, self.__dict__[name], find(name)) for name in self)
        return {name: value for name, value, setting in found if setting is None or value != setting.default}

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back after every change, to discard what is derived from settings."""
        self.__dict__["_on_change"].append(callback)

    def _changed(self) -> None:
        for callback in self.__dict__["_on_change"]:
            callback()


def received_max_bytes(settings: Settings) -> int:
    """Return how many bytes a message may have that a worker receives.

    Never so few that a worker could refuse what a call may send, with a result inserted, its headers and its links.
    """
    least = 2 * (settings.message_max_bytes + settings.result_max_bytes)
    return max(settings.worker_message_max_bytes, least)


def _own(default: Any) -> Any:
    """Return a default that may be changed in place."""
    return copy(default) if isinstance(default, list | dict) else default


def _report(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} mistakes in the configuration:\n" + "\n".join(f"  - {line}" for line in problems)
