"""Describes the machine on which the figures are measured."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

__all__ = ["BUSY", "facts"]

BUSY = 0.5  # load average above which figures are unreliable


def facts(folder: str | None) -> dict[str, Any]:
    """Return facts about this machine, and about the disk that the measurements write to."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "folder": _disk(folder or tempfile.gettempdir()),
        "executable": sys.executable,
    }


def _commit() -> str:
    command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def _disk(folder: str) -> str:
    path = os.path.realpath(folder)
    disks = [disk for disk in psutil.disk_partitions(all=True) if Path(path).is_relative_to(disk.mountpoint)]
    kind = max(disks, key=lambda disk: len(disk.mountpoint)).fstype if disks else "?"
    return f"{folder} ({kind})"
