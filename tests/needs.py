"""Marks of tests that need a program or a package which some machines lack.

`tests/conftest.py` skips such a test there, and fails it where all are required: see `missing`.
"""

from __future__ import annotations

import importlib.util
import shutil

import pytest

__all__ = ["needs", "needs_node", "needs_package", "needs_socat"]


def needs(is_there: bool, advice: str) -> pytest.MarkDecorator:
    """Return a mark of tests that need something; the advice says what is not there, and how to install it."""
    return pytest.mark.needs(is_there, advice)


def needs_package(name: str, extra: str) -> pytest.MarkDecorator:
    """Return a mark of tests that import a package, which an extra of Celeriac installs."""
    return needs(importlib.util.find_spec(name) is not None, f"no {name}: pip install -e '.[{extra}]'")


needs_node = needs(shutil.which("node") is not None, "no Node.js: apt-get install nodejs")
needs_socat = needs(shutil.which("socat") is not None, "no socat: apt-get install socat")
