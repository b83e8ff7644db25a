"""Modules of the apps that tests write into folders."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["forget_modules"]


def forget_modules(folder: Path) -> None:
    """Remove the modules of a folder from `sys.modules`, so that the next test imports its own.

    No others: a driver that is imported a second time has other classes, which those who use it do not know.
    """
    for name, module in list(sys.modules.items()):
        places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or ())]
        if any(isinstance(place, str) and Path(place).is_relative_to(folder) for place in places):
            del sys.modules[name]
