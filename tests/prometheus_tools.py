"""Prometheus' own checks, of Debian's package `prometheus`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.patience import PATIENCE
from tests.server_process import missing

__all__ = ["promtool"]


def promtool(*arguments: str, folder: Path | None = None, given: str = "") -> str:
    """Run promtool; return what it prints. Fails the test if promtool finds a fault, or even gives advice."""
    found = shutil.which("promtool")
    if found is None:
        missing("promtool is not installed: apt-get install prometheus")
    done = subprocess.run([found, *arguments], cwd=folder, input=given, capture_output=True, text=True,
                          timeout=PATIENCE)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout
