"""The part of the app that is configured: its settings, and the queues and routes that they declare."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celeriac.app.builtin_tasks import BuiltinTasks
from celeriac.app.frameworks import framework_of
from celeriac.app.registering import Registering
from celeriac.config.settings import Settings
from celeriac.config.sources import from_object, from_toml
from celeriac.errors import UnknownQueue
from celeriac.model.routing import Routes

if TYPE_CHECKING:
    from celeriac.ports.framework import Framework

__all__ = ["Configuring"]


class Configuring(Registering):
    """Has settings. `Celeriac` is derived from it."""

    builtin_tasks: BuiltinTasks

    def __init__(self, settings: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        super().__init__()
        self.conf = Settings(settings, environ)
        self.conf.watch(self._configuration_changed)
        self.framework: Framework | None = None
        self._routes: Routes | None = None

    def config_from_object(self, source: Any, namespace: str = "") -> None:
        """Read settings from a module, its dotted name, an object or a mapping; see `config.from_object`.

        An app that reads Django's settings (`"django.conf:settings"`) belongs to that project: workers call
        `django.setup()`, and its tasks can be sent when a transaction commits.
        """
        if (found := framework_of(source)) is not None:
            self.framework = found
            self.conf.propose(found.settings())
        named = f"{namespace.upper()}_{{}}" if namespace else "{}"
        self.conf.update(from_object(source, namespace), _named=named)

    def config_from_file(self, path: str | os.PathLike[str]) -> None:
        """Read settings from a TOML file; from a pyproject.toml, the table `[tool.celeriac]`."""
        self.conf.update(from_toml(path))

    def _configuration_changed(self) -> None:
        """Drop what was derived from the settings."""
        self._routes = self._queues = None
        for task in self.tasks.values():
            task.configuration_changed()
        self.builtin_tasks.configuration_changed()

    @property
    def routes(self) -> Routes:
        """The routing table."""
        if self._routes is None:
            self._routes = Routes(self.conf.task_routes)
        return self._routes

    @property
    def queues(self) -> frozenset[str]:
        """Every declared queue: those of the settings, the routes and the tasks."""
        if self._queues is None:
            named = (task.options["queue"] for task in self.tasks.values() if "queue" in task.options)
            self._queues = frozenset(
                {self.conf.task_default_queue, *self.conf.task_queues, *self.routes.queues(), *named}
            )
        return self._queues

    def check_queue(self, queue: str) -> None:
        """Raise `UnknownQueue` for a queue that is not declared, unless `task_create_missing_queues` is set."""
        if queue not in self.queues and not self.conf.task_create_missing_queues:
            raise UnknownQueue(queue, self.queues)
