"""`celeriac report`: the information that a bug report needs, with passwords masked."""

from __future__ import annotations

import importlib.util
import os
import platform
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from celeriac import __version__
from celeriac.cli.documents import as_json, emit
from celeriac.cli.output import echo
from celeriac.cli.session import Session, with_session
from celeriac.errors import CeleriacError
from celeriac.model.masks import masked

__all__ = ["command"]

PACKAGES = ("click", "msgspec", "rich", "uvloop", "pydantic")


@click.command("report")
@as_json
@with_session
def command(session: Session, *, as_json: bool) -> None:
    """Print versions, platform, the settings that differ from their defaults, and whether the broker responds.

    Passwords in URLs are masked. Without -A, the app's part is left out.

    \b
    Examples:
      celeriac -A shop report
      celeriac report --json

    \b
    Exit codes:
      0  the broker responds, or no app is given
      1  the broker does not respond
      2  the command line or the app is invalid
    """
    document: dict[str, Any] = {"versions": _versions(), "platform": _platform()}
    if session.spec:
        document["app"] = _app(session)
    if as_json:
        emit(document)
    else:
        for section, facts in document.items():
            echo(f"{section}:")
            for name, value in facts.items():
                _print(name, value)
    if session.spec and not document["app"]["broker_answers"]:
        click.get_current_context().exit(1)


def _print(name: str, value: Any) -> None:
    if isinstance(value, dict):
        echo(f"  {name}:" + ("" if value else " none"))
        for key, item in value.items():
            echo(f"    {key} = {item!r}")
    else:
        echo(f"  {name}: {value}")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"celeriac": __version__, "python": platform.python_version(),
                                    "sqlite": sqlite3.sqlite_version}  # fmt: skip
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _platform() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "machine": platform.machine(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "cores": os.cpu_count(),
        "uvloop": importlib.util.find_spec("uvloop") is not None,
    }


def _app(session: Session) -> dict[str, Any]:
    app = session.app
    facts: dict[str, Any] = {
        "name": app.main,
        "tasks": len(app.tasks),
        "queues": ", ".join(sorted(app.queues)),
        "broker": masked(app.broker_url),
        "result_backend": masked(app.conf.result_backend or app.broker_url),
        "settings": masked(app.conf.changed()),
        "broker_answers": True,
    }
    try:
        facts["workers"] = len(session.run(session.inspector().workers()))
    except CeleriacError as error:
        facts["broker_answers"] = False
        facts["broker_error"] = masked(str(error))
    return facts
