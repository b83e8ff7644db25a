"""Signals to the servers that tests run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.patience import wait_for

__all__ = ["send"]

STOPPED, ENDED = "T", "ZX"  # states of a thread, as /proc tells them


def send(pid: int, number: int) -> None:
    """Send a signal. After a SIGSTOP, return when the process has stopped: until then it may reply once more."""
    os.kill(pid, number)
    if number == signal.SIGSTOP:
        wait_for(lambda: all(state in STOPPED + ENDED for state in _states(pid)), "a stopped process")


def _states(pid: int) -> list[str]:
    """Return the states of all threads of a process."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.append((thread / "stat").read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    return found
