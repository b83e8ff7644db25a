"""Schedules that code declares: the setting `beat_schedule`, `app.add_periodic_task`, and `@app.task(schedule=…)`.

Each scheduler brings them into the store; see `sync.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from celeriac.beat.definition import CODE, check_name, encode_definition
from celeriac.beat.info import POLICIES
from celeriac.beat.schedules import Schedules
from celeriac.errors import ImproperlyConfigured, nearest
from celeriac.schedules.kinds import as_schedule
from celeriac.tasks.protocols import AnyTask, App

__all__ = ["Declared"]

KEYS = ("task", "schedule", "args", "kwargs", "options", "relative", *POLICIES)


class Declared:
    """What one app declares."""

    def __init__(self, app: App, main: str | None, schedules: Schedules) -> None:
        self.main = main or ""
        self._app = app
        self.schedules = schedules
        self._added: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
        self._made: dict[str, bytes] = {}  # the definitions of those that were added, as far as they were made

    def add(self, name: str, schedule: Any, what: Any, policies: dict[str, Any]) -> None:
        """Declare an entry. A later one of the same name replaces it."""
        check_name(name)
        self._made[name] = self._definition(schedule, what, policies)  # raises where it is declared
        self._added[name] = schedule, what.clone(), policies

    def add_task(self, task: AnyTask, schedule: Any) -> None:
        """Declare that a task is sent without arguments. The entry has the task's name."""
        as_schedule(schedule)
        task.arguments.check((), {})
        self._made.pop(task.name, None)
        self._added[task.name] = schedule, self._app.signature(task.name), {}

    def forget(self) -> None:
        """Make all definitions anew when they are needed: a setting has changed, or a task was registered."""
        self._made.clear()

    def definitions(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name of each entry that is declared, and its definition as bytes.

        The same code yields the same bytes. Raises `ImproperlyConfigured` for what cannot be, with its name.
        """
        for name, item in list(self._app.conf.beat_schedule.items()):
            self._check(name, item)
            if name not in self._added:
                policies = {key: item[key] for key in POLICIES if key in item}
                yield name, self._named(name, item["schedule"], self._what(item), policies)
        for name, added in list(self._added.items()):
            made = self._made.get(name)
            if made is None:
                made = self._made[name] = self._named(name, *added)
            yield name, made

    def _check(self, name: str, item: Any) -> None:
        check_name(name)
        if not isinstance(item, Mapping) or not {"task", "schedule"} <= item.keys():
            raise ImproperlyConfigured(f"beat_schedule[{name!r}] needs 'task' and 'schedule', not {item!r}.")
        for key in item:
            if key not in KEYS:
                raise ImproperlyConfigured(f"beat_schedule[{name!r}] has no {key!r}.{nearest(key, KEYS)}")

    def _what(self, item: Mapping[str, Any]) -> Any:
        """Return the signature that an item of `beat_schedule` calls; its task may be a workflow."""
        task, args, kwargs = item["task"], item.get("args") or (), item.get("kwargs") or {}
        options = item.get("options") or {}
        name = getattr(task, "name", task)
        if not isinstance(name, str):  # a signature or a workflow
            return task.clone(args, kwargs, **options) if args or kwargs or options else task
        return self._app.signature(name, args, kwargs, **options)

    def _named(self, name: str, schedule: Any, what: Any, policies: dict[str, Any]) -> bytes:
        try:
            return self._definition(schedule, what, policies)
        except (ValueError, TypeError, ImproperlyConfigured) as error:
            raise ImproperlyConfigured(f"The schedule {name!r}: {error}") from error

    def _definition(self, schedule: Any, what: Any, policies: dict[str, Any]) -> bytes:
        made = self.schedules.definition(schedule, what, origin=CODE, app=self.main, **policies)
        return encode_definition(made)
