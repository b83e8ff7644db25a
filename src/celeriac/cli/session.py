"""What every command starts from: the app that `-A` names, an inspector, and a way to run coroutines."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import click

from celeriac.app.app import Celeriac
from celeriac.cli.lazy import APP
from celeriac.cli.locate import AppError, find_app, importing
from celeriac.inspector import Inspector

__all__ = ["Session", "with_session"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

SESSION = "celeriac.session"


class Session:
    """One run of the command."""

    def __init__(self, spec: str | None) -> None:
        self.spec = spec

    @cached_property
    def app(self) -> Celeriac:
        """The app, its task modules imported. Raises `AppError`."""
        if not self.spec:
            raise AppError("No app is named. Say which: celeriac -A shop …, where shop.py holds "
                           "app = Celeriac('shop'), or set CELERIAC_APP=shop.")  # fmt: skip
        app = find_app(self.spec)
        with importing("A module that the setting `imports` names"):
            app.import_tasks()
        return app

    def inspector(self, destination: Sequence[str] | None = None, timeout: float = 2.0) -> Inspector:
        """Return an inspector of the app."""
        return Inspector(self.app, destination or None, timeout)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Drive a coroutine to its end."""
        try:
            broker = self.app.broker
        except BaseException:
            work.close()  # so that Python does not complain that nobody awaited it
            raise
        return broker.complete(work)

    def celeriac(self, command: str) -> str:
        """Return a command line for the same app, to be shown as the next step."""
        return f"celeriac -A {self.spec} {command}"


def with_session(function: Callable[Concatenate[Session, P], R]) -> Callable[P, R]:
    """Hand a command the session, and take -A after its name too."""

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
