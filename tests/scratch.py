"""Where tests and their servers write: into memory, where there is room, as most of them would wait for a disk's fsync.

Nothing that they prove needs the disk: they kill processes, not the machine, and what a killed process has written
outlives it in memory as well. The environment variable TMPDIR names another folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile

__all__ = ["keep_bytecode", "use_memory"]

MEMORY = "/dev/shm"
NEEDED = 6 << 30  # bytes; four processes with servers of each kind use 2 to 3 GiB


def keep_bytecode() -> None:
    """Have the processes that tests start, which are thousands, keep what they compile, as users' processes do."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def use_memory() -> None:
    """Have this process and those that it starts make their temporary files in memory."""
    if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > NEEDED:
        os.environ["TMPDIR"] = tempfile.tempdir = MEMORY
