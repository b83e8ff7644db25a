"""The Pythons that tests with Django run on: with Django 5.2, and with the newest version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

__all__ = ["NEWEST", "PYTHONS"]

NEWEST = Path(__file__).resolve().parents[2] / ".venv" / "peers" / "django" / "bin" / "python"
"""It needs Python 3.12, and an environment of its own (`make django`)."""

PYTHONS = [
    pytest.param(sys.executable, id="django52"),
    pytest.param(
        str(NEWEST),
        id="newest",
        marks=pytest.mark.skipif(not NEWEST.exists(), reason="Django 6 needs Python 3.12 or later: make django"),
    ),
]
