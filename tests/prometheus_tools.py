"""Prometheus' own checks, of Debian's package `prometheus`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.patience import PATIENCE

__all__ = ["promtool"]

MISSING = "promtool is not installed: apt-get install prometheus"


def promtool(*arguments: str, folder: Path | None = None, given: str = "") -> str:
    """Run promtool; return what it prints. Fails the test if promtool finds a fault, or even gives advice."""
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CELERIAC_TEST_REQUIRE") == "all":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    done = subprocess.run([found, *arguments], cwd=folder, input=given, capture_output=True, text=True,
                          timeout=PATIENCE)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout
