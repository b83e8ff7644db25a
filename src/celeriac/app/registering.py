"""The part of the app that registers tasks, and imports the modules that define them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, cast, overload

from celeriac.errors import ImproperlyConfigured
from celeriac.lazy import LazyModule
from celeriac.model.clock import Duration
from celeriac.model.options import TaskOptions, text
from celeriac.tasks.decorators import BoundDecorator, Decorator
from celeriac.tasks.protocols import App
from celeriac.tasks.task import CoroutineTask, Task, Tasks

if TYPE_CHECKING:
    from celeriac.config.settings import Settings
    from celeriac.http import task as http_tasks
    from celeriac.http.task import HttpTask
    from celeriac.ports.framework import Framework
else:
    http_tasks = LazyModule("celeriac.http.task")

__all__ = ["MAIN", "Registering"]

P = ParamSpec("P")
R = TypeVar("R")
Kind = TypeVar("Kind", bound=Task[Any, Any])

MAIN = ("__main__", "__mp_main__")  # the running script; its name in processes spawned by multiprocessing


class Registering:
    """Registers tasks. `Celeriac` is derived from it."""

    main: str | None
    conf: Settings
    framework: Framework | None

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.has_http_tasks = False
        self._queues: frozenset[str] | None = None  # every declared queue, once it was asked for
        self._discovered: list[tuple[Iterable[str] | Callable[[], Iterable[str]], str | None]] = []

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(self, /, *, name: str | None = None, bind: Literal[True], base: type[Task[Any, Any]] | None = None,
             **options: Unpack[TaskOptions]) -> BoundDecorator: ...  # fmt: skip

    @overload
    def task(self, /, *, name: str | None = None, bind: Literal[False] = False,
             base: type[Task[Any, Any]] | None = None, **options: Unpack[TaskOptions]) -> Decorator: ...  # fmt: skip

    def task(self, function: Callable[..., Any] | None = None, /, *, name: str | None = None, bind: bool = False,
             base: type[Task[Any, Any]] | None = None, **options: Any) -> Any:  # fmt: skip
        """Register a function, plain or `async def`, as a task. With or without options:

            @app.task
            def add(x, y): ...

            @app.task(bind=True, queue="mail", autoretry_for=(OSError,), time_limit=60)
            def send(self, to): ...
        """

        def register(function: Callable[..., Any]) -> Task[Any, Any]:
            return self.register(function, name, bind, base, options)

        return register if function is None else register(function)

    def register(self, function: Callable[..., Any], name: str | None, bind: bool,
                 base: type[Task[Any, Any]] | None, options: Mapping[str, Any]) -> Task[Any, Any]:  # fmt: skip
        """Register a function as a task, and return the task. `task` and `shared_task` call this."""
        if not callable(function):
            raise ImproperlyConfigured(f"@app.task must be given a function, not {function!r}. "
                                       "To name the task, write @app.task(name=…).")  # fmt: skip
        if isinstance(function, type) and issubclass(function, Task):
            raise ImproperlyConfigured(f"{function.__qualname__} is a task class: register it with "
                                       f"app.register_task({function.__name__}()).")  # fmt: skip
        if base is not None and not (isinstance(base, type) and issubclass(base, Task)):
            raise ImproperlyConfigured(f"base must be a subclass of celeriac.Task, not {base!r}.")
        name = name or self.name_of(function)
        self._check_name(name, function)
        kind = base or (CoroutineTask if inspect.iscoroutinefunction(function) else Task)
        task = kind.__new__(kind)
        task.app, task.name = cast(App, self), name  # its constructor may read them
        kind.__init__(task)
        task.attach(cast(App, self), function, name, options, bind)
        self._add(name, task)
        return task

    def http_task(self, name: str, url: str, *, secret: str | Sequence[str] | None = None, timeout: Duration = 30.0,
                  style: str = "json", method: str | None = None,
                  **options: Unpack[TaskOptions]) -> HttpTask:  # fmt: skip
        """Register a task that is an endpoint of another program, in any language; return the task.

            charge = app.http_task("billing.charge", "https://billing.internal/charge", secret="whsec_…", time_limit=60)
            charge.delay(customer=7, amount="12.50")

        Workers send a POST with the call as JSON, signed as Standard Webhooks define it with `secret` (several, while
        they are replaced). An answer that takes longer than `timeout` seconds, no connection, 408, 425, 429 and 5xx
        lead to a retry. Workers need the extra `celeriac[http]`. With `style="celery"` the endpoint is one of
        `celery.task.http`, and `method` is "POST" or "GET".
        """
        name = text(name, "name")
        endpoint = http_tasks.make_endpoint(name, url, secret, timeout, style, method)
        function = http_tasks.function_of(endpoint, sys._getframe(1).f_globals.get("__name__", "__main__"), name)
        task = self.register(function, name, True, http_tasks.HttpTask, options)
        assert isinstance(task, http_tasks.HttpTask)
        task.endpoint = endpoint
        self.has_http_tasks = True
        return task

    def register_task(self, task: Kind | type[Kind], **options: Any) -> Kind:
        """Register a task that is a class, or an object of one, with the method `run`; return the task.

            class Add(Task):
                def run(self, x, y): ...

            add = app.register_task(Add())
        """
        made = task() if isinstance(task, type) else task
        kind = type(made)
        if not isinstance(made, Task) or kind.run is Task.run:
            raise ImproperlyConfigured(f"register_task needs a subclass of Task that has a method `run`, not {task!r}.")
        name = made.name or self.name_of(kind)
        self._check_name(name, kind)
        made.attach(cast(App, self), kind.run, name, options, True, kind)
        self._add(name, made)
        return made

    def _add(self, name: str, task: Task[Any, Any]) -> None:
        """Add a task that was attached to the app."""
        self.tasks[name] = task
        self._queues = None

    def _check_name(self, name: str, source: Any) -> None:
        """Raise if this is no name, or `ImproperlyConfigured` if a task of this name was made of something else."""
        known = self.tasks.get(text(name, "name"))
        if known is not None and (known.__module__, known.__qualname__) != (source.__module__, source.__qualname__):
            raise ImproperlyConfigured(
                f"Two functions are registered as the task {name!r}: {known.__module__}.{known.__qualname__} and "
                f"{source.__module__}.{source.__qualname__}. Give one another name: @app.task(name=…)."
            )

    def name_of(self, function: Callable[..., Any]) -> str:
        """Return the default name of a function's task: its module and its own name.

        Raises `ImproperlyConfigured` for what has no name, as a `functools.partial`.
        """
        if not hasattr(function, "__name__"):
            raise ImproperlyConfigured(f"{function!r} has no name that its task could have: write @app.task(name=…).")
        module = function.__module__
        if module in MAIN:
            module = self.main or _main_name()
        return f"{module}.{function.__name__}"

    def autodiscover_tasks(self, packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
                           related_name: str | None = "tasks", force: bool = False) -> None:  # fmt: skip
        """Let workers import the module `tasks` of each of these packages that has one: `shop.tasks`, `mail.tasks`.

        Without packages, those of Django's `INSTALLED_APPS`. With `related_name=None` they import the packages
        themselves. Nothing is imported before a worker starts, so that these modules may import the app; with `force`
        they are imported now.
        """
        if isinstance(packages, str):
            raise ImproperlyConfigured(f"autodiscover_tasks needs a list of packages: [{packages!r}].")
        if packages is None:
            packages = self._packages_of_framework
        self._discovered.append((packages, related_name))
        if force:
            self.import_tasks()

    def _packages_of_framework(self) -> Iterable[str]:
        if self.framework is None:
            raise ImproperlyConfigured(
                "autodiscover_tasks() without packages means those of Django's INSTALLED_APPS, and this app does not "
                'know of a Django project. Let it read the settings of one, app.config_from_object("django.conf:'
                'settings", namespace="CELERIAC"), or name the packages: autodiscover_tasks(["shop", "mail"]).'
            )
        return self.framework.packages()

    def import_tasks(self) -> None:
        """Import the modules that the setting `imports` names, and those that `autodiscover_tasks` finds."""
        for module in self.conf.imports:
            importlib.import_module(module)
        for packages, related_name in self._discovered:
            for package in packages() if callable(packages) else packages:
                _import_related(package, related_name)


def _import_related(package: str, related_name: str | None) -> None:
    """Import a package, and its module with this name if it has one."""
    found = importlib.import_module(package)
    if related_name is not None and hasattr(found, "__path__"):
        name = f"{package}.{related_name}"
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)


def _main_name() -> str:
    """Return the name by which the running script can be imported."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"
