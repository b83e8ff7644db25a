"""The part of the app that declares, keeps and sends what is periodic. It also makes parts when they are first used."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from celeriac.app.configuring import Configuring
from celeriac.lazy import LazyModule
from celeriac.tasks.protocols import App
from celeriac.tasks.task import Task

if TYPE_CHECKING:
    from celeriac.beat import declared as beat_declared
    from celeriac.beat import info as beat_info
    from celeriac.beat import scheduler as beat_scheduler
    from celeriac.beat import schedules as beat_schedules
    from celeriac.beat.declared import Declared
    from celeriac.beat.scheduler import Scheduler
    from celeriac.beat.schedules import Schedules
else:  # most callers of tasks have nothing that is periodic
    beat_declared = LazyModule("celeriac.beat.declared")
    beat_info = LazyModule("celeriac.beat.info")
    beat_scheduler = LazyModule("celeriac.beat.scheduler")
    beat_schedules = LazyModule("celeriac.beat.schedules")

__all__ = ["Scheduling"]

T = TypeVar("T")


class Scheduling(Configuring):
    """Has schedules. `Celeriac` is derived from it."""

    def __init__(self, settings: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self._parts: dict[str, Any] = {}  # by name; see `_part`
        super().__init__(settings, environ)

    def _part(self, name: str, make: Callable[[], T]) -> T:
        """Return a part of the app, made when it is first used. Of what threads make at once, only one is kept.

        There is no lock that a fork could inherit.
        """
        if name not in self._parts:
            self._parts.setdefault(name, make())
        part: T = self._parts[name]
        return part

    @property
    def schedules(self) -> Schedules:
        """Adds, changes, finds and removes what is sent periodically."""
        return self._part("schedules", lambda: beat_schedules.Schedules(cast(App, self)))

    @property
    def declared(self) -> Declared:
        """The schedules that code declares."""
        return self._part("declared", lambda: beat_declared.Declared(cast(App, self), self.main, self.schedules))

    def _configuration_changed(self) -> None:
        self._forget_declared()
        super()._configuration_changed()

    def _forget_declared(self) -> None:
        if "declared" in self._parts:
            self.declared.forget()

    def _add(self, name: str, task: Task[Any, Any]) -> None:
        super()._add(name, task)
        self._forget_declared()
        if (schedule := task.options.pop("schedule", None)) is not None:
            self.declared.add_task(task, schedule)

    def add_periodic_task(self, schedule: Any, sig: Any, args: Sequence[Any] = (),
                          kwargs: Mapping[str, Any] | None = None, name: str | None = None,
                          **options: Any) -> str:  # fmt: skip
        """Declare that schedulers send a task's signature, or a workflow; return the name of the entry.

        `schedule` is as for `app.schedules.add`. Options are those of a call, and policies of the entry.
        """
        policies = {key: options.pop(key) for key in beat_info.POLICIES if key in options}
        if args or kwargs or options:
            sig = sig.clone(args, kwargs, **options)
        name = name or repr(sig)
        self.declared.add(name, schedule, sig, policies)
        return name

    async def beat(self, name: str = "") -> None:
        """Import the task modules, and run a scheduler in this event loop until cancelled. Any number may run."""
        self.import_tasks()
        await self.scheduler(name).run()

    def scheduler(self, name: str = "") -> Scheduler:
        """Return a scheduler, which `beat` runs."""
        name = name or f"{self.main}@{platform.node()}.{os.getpid()}"
        return beat_scheduler.Scheduler(cast(App, self), name, self.declared)
