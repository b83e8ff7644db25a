"""The built-in tasks of an app: those of `canvas`, `mail` and `http`, made when one of them is first asked for.

A plain caller never asks for one, and so imports none of the three packages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from celeriac.lazy import LazyModule
from celeriac.tasks.builtin_names import GATHER, MAIL, MAP, STARMAP, WEBHOOK
from celeriac.tasks.protocols import App
from celeriac.tasks.task import Task

if TYPE_CHECKING:
    from celeriac.canvas import functions
    from celeriac.http import callbacks
    from celeriac.mail import tasks as mailing
else:
    functions = LazyModule("celeriac.canvas.functions")
    callbacks = LazyModule("celeriac.http.callbacks")
    mailing = LazyModule("celeriac.mail.tasks")

__all__ = ["BuiltinTasks"]


def _of_canvas(app: App) -> dict[str, Task[Any, Any]]:
    return functions.builtin_tasks(app)


MAKERS: Final[Mapping[str, Callable[[App], dict[str, Task[Any, Any]]]]] = {
    GATHER: _of_canvas,
    MAP: _of_canvas,
    STARMAP: _of_canvas,
    MAIL: lambda app: mailing.mail_tasks(app),
    WEBHOOK: lambda app: callbacks.callback_task(app),
}


class BuiltinTasks(Mapping[str, Task[Any, Any]]):
    """The built-in tasks of one app, by name."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._made: dict[str, Task[Any, Any]] = {}

    def __getitem__(self, name: str) -> Task[Any, Any]:
        if name not in self._made:
            for one, task in MAKERS[name](self._app).items():
                self._made.setdefault(one, task)  # another thread may have made it at the same time
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in MAKERS

    def __iter__(self) -> Iterator[str]:
        return iter(MAKERS)

    def __len__(self) -> int:
        return len(MAKERS)

    def configuration_changed(self) -> None:
        """Discard what those that were made have derived from the settings."""
        for task in list(self._made.values()):
            task.configuration_changed()
