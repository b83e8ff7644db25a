"""Schedules that code declares: the setting `beat_schedule`, `app.add_periodic_task`, and `@app.task(schedule=…)`.

Each scheduler brings them into the store when it starts. An entry that has changed keeps its cursor, unless it has
another schedule now; an entry that this app declares no more is removed; those made by hand are never touched.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from celeriac.beat.definition import CODE, Definition, definition_of
from celeriac.beat.schedules import POLICIES, Schedules
from celeriac.errors import ImproperlyConfigured, nearest
from celeriac.model.gate import Unreadable
from celeriac.ports.schedules import Change, Entry
from celeriac.schedules.kinds import as_schedule
from celeriac.tasks.protocols import AnyTask, App

__all__ = ["Declared"]

log = logging.getLogger("celeriac.beat")

BATCH = 500
KEYS = ("task", "schedule", "args", "kwargs", "options", "relative", *POLICIES)


class Declared:
    """What one app declares."""

    def __init__(self, app: App, main: str | None, schedules: Schedules) -> None:
        self._app = app
        self._main = main or ""
        self._schedules = schedules
        self._added: dict[str, tuple[Any, Any, dict[str, Any]]] = {}

    def add(self, name: str, schedule: Any, what: Any, policies: dict[str, Any]) -> None:
        """Declare an entry. A later one of the same name replaces it."""
        self._schedules.definition(schedule, what, **policies)  # raises where it is declared
        self._added[name] = schedule, what, policies

    def add_task(self, task: AnyTask, schedule: Any) -> None:
        """Declare that a task is sent without arguments. The entry has the task's name."""
        as_schedule(schedule)
        task.arguments.check((), {})
        self._added[task.name] = schedule, self._app.signature(task.name), {}

    def definitions(self) -> dict[str, Definition]:
        """Return all that is declared, by name. Raises `ImproperlyConfigured` for what cannot be, with its name."""
        found = {}
        for name, schedule, what, policies in self._all():
            try:
                found[name] = self._schedules.definition(schedule, what, origin=CODE, app=self._main, **policies)
            except (ValueError, TypeError, ImproperlyConfigured) as error:
                raise ImproperlyConfigured(f"The schedule {name!r}: {error}") from error
        return found

    def _all(self) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
        for name, item in self._app.conf.beat_schedule.items():
            if not isinstance(item, Mapping) or not {"task", "schedule"} <= item.keys():
                raise ImproperlyConfigured(f"beat_schedule[{name!r}] needs 'task' and 'schedule', not {item!r}.")
            for key in item:
                if key not in KEYS:
                    raise ImproperlyConfigured(f"beat_schedule[{name!r}] has no {key!r}.{nearest(key, KEYS)}")
            yield name, item["schedule"], self._what(item), {key: item[key] for key in POLICIES if key in item}
        for name, (schedule, what, policies) in self._added.items():
            yield name, schedule, what, policies

    def _what(self, item: Mapping[str, Any]) -> Any:
        """Return the signature that an item of `beat_schedule` calls; its task may be a workflow."""
        task, args, kwargs = item["task"], item.get("args") or (), item.get("kwargs") or {}
        options = item.get("options") or {}
        name = getattr(task, "name", task)
        if not isinstance(name, str):  # a signature or a workflow
            return task.clone(args, kwargs, **options) if args or kwargs or options else task
        return self._app.signature(name, args, kwargs, **options)

    async def sync(self, edits: bool = True) -> None:
        """Bring the store up to date. Without `edits`, only add what is missing.

        A scheduler of an older release that loses its server for a while must not undo what a newer one declares.
        """
        wanted = self.definitions()
        names = list(wanted)
        for start in range(0, len(names), BATCH):
            batch = {name: wanted[name] for name in names[start : start + BATCH]}
            if edits:
                await self._sync(batch)
            else:
                await self._schedules.store.create([self._schedules.entry(name, batch[name]) for name in batch])
        if edits:
            await self._remove(wanted)

    async def _sync(self, wanted: Mapping[str, Definition]) -> None:
        store = self._schedules.store
        while wanted:
            known = await store.get(list(wanted))
            missing = [name for name in wanted if name not in known]
            created = await store.create([self._schedules.entry(name, wanted[name]) for name in missing])
            changes = [change for name, entry in known.items() if (change := self._change(entry, wanted[name]))]
            changed = await store.change(changes)
            failed = [name for name, done in zip(missing, created, strict=True) if not done]
            failed += [change.before.name for change, done in zip(changes, changed, strict=True) if not done]
            wanted = {name: wanted[name] for name in failed}  # another scheduler was faster: compare again

    def _change(self, entry: Entry, wanted: Definition) -> Change | None:
        """Return the change that an entry needs, if it needs one."""
        try:
            old = definition_of(entry)
        except Unreadable:
            return Change(before=entry, after=self._schedules.redefined(entry, wanted))
        if old.origin != CODE:
            log.warning("The schedule %s is declared, but one made by hand has its name, and stays", entry.name)
            return None
        new = replace(wanted, salt=old.salt)
        if _same(old, new):
            return None
        return Change(before=entry, after=self._schedules.redefined(entry, new))

    async def _remove(self, wanted: Mapping[str, Definition]) -> None:
        store = self._schedules.store
        page: Sequence[Entry] = await store.page("", BATCH)
        while page:
            gone = [entry.name for entry in page if entry.name not in wanted and self._is_mine(entry)]
            if gone:
                await store.remove(gone)
            page = await store.page(page[-1].name, BATCH)

    def _is_mine(self, entry: Entry) -> bool:
        try:
            definition = definition_of(entry)
        except Unreadable:
            return False
        return definition.origin == CODE and definition.app == self._main


def _same(old: Definition, new: Definition) -> bool:
    """Return whether two definitions differ at most in the ids of their templates, which are made anew each time."""
    return replace(old, what=old.what.without_ids()) == replace(new, what=new.what.without_ids())
