"""Modules: which one makes an app, what the running script is called, and which modules of packages hold tasks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from types import FrameType
from typing import Final

__all__ = ["MAIN", "caller", "import_related", "main_name"]

MAIN: Final = ("__main__", "__mp_main__")  # the running script; its name in processes spawned by multiprocessing


def caller(frame: FrameType) -> tuple[str, str | None]:
    """Return the folder of the file that makes the app, and its module's name unless it is the running script."""
    file, module = frame.f_globals.get("__file__"), frame.f_globals.get("__name__")
    folder = os.path.dirname(os.path.realpath(file)) if file else os.getcwd()
    return folder, module if module not in MAIN else None


def import_related(package: str, related_name: str | None) -> None:
    """Import a package, and its module with this name if it has one."""
    found = importlib.import_module(package)
    if related_name is not None and hasattr(found, "__path__"):
        name = f"{package}.{related_name}"
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)


def main_name() -> str:
    """Return the name by which the running script can be imported."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"
