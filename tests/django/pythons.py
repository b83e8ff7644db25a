"""The Pythons that tests with Django run on: with Django 5.2, and with the newest version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.needs import needs

__all__ = ["NEWEST", "PYTHONS", "needs_newest"]

NEWEST = Path(__file__).resolve().parents[2] / ".venv" / "peers" / "django" / "bin" / "python"
"""It needs Python 3.12, and an environment of its own (`make django`)."""

PLACES = ("/usr/bin", "/usr/local/bin", f"{Path.home()}/.pyenv/versions")
"""Where `make django` looks for a Python that is new enough. Without one, nobody requires these tests."""

is_possible = any(Path(place).glob(pattern) for place in PLACES
                  for pattern in ("python3.1[2-9]", "3.1[2-9].*/bin/python"))  # fmt: skip
needs_newest = (
    needs(NEWEST.exists(), "no environment with the newest Django: make django")
    if is_possible
    else pytest.mark.skip(reason="the newest Django needs Python 3.12 or later")
)

PYTHONS = [
    pytest.param(sys.executable, id="django52"),
    pytest.param(str(NEWEST), id="newest", marks=needs_newest),
]
