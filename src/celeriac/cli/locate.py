"""Finds the app that `-A shop:app` names, and explains what went wrong if it cannot be found or imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import click

import celeriac
from celeriac.app.app import Celeriac
from celeriac.errors import nearest

__all__ = ["AppError", "find_app", "importing"]

NAMES = ("app", "celeriac")
"""The names that are tried when -A names only a module."""

INNER = ("celeriac", "celery")
"""The modules that are tried when -A names a package without an app."""

PACKAGE = str(Path(celeriac.__file__).parent) + os.sep


class AppError(click.ClickException):
    """The app cannot be found, or its modules cannot be imported."""

    exit_code: ClassVar[int] = 2


def find_app(spec: str) -> Celeriac:
    """Return the app for `module` or `module:name`; the current folder is searched for modules, too."""
    name, colon, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in name.split(".")) or (colon and not attribute):
        hint = f" Use the module's name: -A {name[:-3].replace(os.sep, '.')}" if name.endswith(".py") else ""
        raise AppError(f"-A takes a module ('shop') or a module and a name ('shop:app'), not {spec!r}.{hint}")
    if name == celeriac.__name__:
        raise AppError("-A names the package Celeriac itself. Give the module of your app another name: as celeriac.py "
                       "it hides the package, or is hidden by it. Call it jobs.py, and pass -A jobs.")  # fmt: skip
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _import(name)
    return _named(module, attribute) if attribute else _only(module)


def _named(module: ModuleType, attribute: str) -> Celeriac:
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Celeriac):
        return found
    apps = _apps(module)
    what = "has no" if found is None else "has no app"
    here = f" Its apps: {', '.join(apps)}." if apps else _how_to_make(module)
    raise AppError(f"The module {module.__name__!r} {what} {attribute!r}.{nearest(attribute, apps)}{here}")


def _only(module: ModuleType) -> Celeriac:
    apps = _apps(module)
    for name in NAMES:
        if name in apps:
            return apps[name]
    if len({id(app) for app in apps.values()}) == 1:
        return next(iter(apps.values()))
    if apps:
        choices = " or ".join(f"-A {module.__name__}:{name}" for name in apps)
        raise AppError(f"The module {module.__name__!r} has several apps. Choose one: {choices}.")
    for inner in (f"{module.__name__}.{name}" for name in INNER if hasattr(module, "__path__")):
        if importlib.util.find_spec(inner) is not None:
            return _only(_import(inner))
    raise AppError(f"The module {module.__name__!r} ({module.__file__}) has no app.{_how_to_make(module)}")


def _apps(module: ModuleType) -> dict[str, Celeriac]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Celeriac)}


def _how_to_make(module: ModuleType) -> str:
    return f" Define one there: app = Celeriac({module.__name__!r})."


# --- Importing the user's modules ---------------------------------------------------------------------


def _import(name: str) -> ModuleType:
    with importing(f"The module {name!r} cannot be imported"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module was found, but one that it imports was not
            raise AppError(_not_found(name)) from error
    raise AssertionError  # pragma: no cover - `importing` never swallows an error


def _not_found(name: str) -> str:
    parent, _, last = name.rpartition(".")
    if parent in sys.modules and hasattr(sys.modules[parent], last):
        return f"There is no module {name!r}. Did you mean '{parent}:{last}'?"
    modules = [path.stem for path in Path.cwd().glob("*.py")]
    modules += [path.parent.name for path in Path.cwd().glob("*/__init__.py")]
    return (f"There is no module {name!r} in {Path.cwd()}, and none is installed.{nearest(name, modules)} "
            "Run the command in the folder that contains it, or name the folder: "
            f"celeriac --workdir FOLDER -A {name} …")  # fmt: skip


@contextmanager
def importing(what: str) -> Iterator[None]:
    """Turn any exception from an import into an `AppError` that says what failed and where."""
    try:
        yield
    except click.ClickException:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.format_exception_only(error)[-1].strip()
        where = _location(error)
        raise AppError(f"{what}: {last}" + (f"\n  {where}" if where else "")) from error


def _location(error: BaseException) -> str:
    """Return the line of the user's own code at which an import failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return _frame(error.filename, error.lineno, "", error.text)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((PACKAGE, "<frozen")) and f"{os.sep}importlib{os.sep}" not in frame.filename
    ]
    return _frame(frames[-1].filename, frames[-1].lineno, frames[-1].name, frames[-1].line) if frames else ""


def _frame(file: str, line: int | None, function: str, text: str | None) -> str:
    inside = f", in {function}" if function and function != "<module>" else ""
    return f"at {file}:{line}{inside}" + (f": {text.strip()}" if text else "")
