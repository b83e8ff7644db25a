"""The session that every command receives: the app that `-A` names, an inspector, and a way to run coroutines."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

import click

from celeriac.app.app import Celeriac
from celeriac.cli.lazy import APP
from celeriac.cli.locate import AppError, find_app, importing
from celeriac.lazy import LazyModule

if TYPE_CHECKING:
    from celeriac import inspector as inspecting
    from celeriac.inspector import Inspector
else:
    inspecting = LazyModule("celeriac.inspector")

__all__ = ["Session", "with_session"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

SESSION = "celeriac.session"


class Session:
    """The app of one command run, imported on first use."""

    def __init__(self, spec: str | None) -> None:
        self.spec = spec

    @cached_property
    def app(self) -> Celeriac:
        """The app, with its task modules imported. Raises `AppError`."""
        if not self.spec:
            raise AppError("No app is given. Pass -A: celeriac -A shop …, where shop.py contains "
                           "app = Celeriac('shop'), or set CELERIAC_APP=shop.")  # fmt: skip
        app = find_app(self.spec)
        with importing("A module of tasks cannot be imported, or a receiver of on_after_configure fails"):
            app.import_tasks()
        return app

    def inspector(self, destination: Sequence[str] | None = None, timeout: float = 2.0) -> Inspector:
        """Return an inspector of the app."""
        return inspecting.Inspector(self.app, destination or None, timeout)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result."""
        try:
            broker = self.app.broker
        except BaseException:
            work.close()  # avoids the warning that the coroutine was never awaited
            raise
        return broker.complete(work)

    def celeriac(self, command: str) -> str:
        """Return a command line for the same app, for messages that show the next step."""
        return f"celeriac -A {self.spec} {command}"


def with_session(function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """Pass the session to a command, and accept -A after the command's name, too."""

    @click.option("-A", "--app", "app_after", metavar="APP", hidden=True)
    @wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        meta = click.get_current_context().meta
        spec = kwargs.pop("app_after", None) or meta.get(APP)
        session = meta.get(SESSION)
        if session is None or session.spec != spec:
            session = meta[SESSION] = Session(cast("str | None", spec))
        meta[APP] = spec
        return function(session, *args, **kwargs)

    return command
