"""How long tests wait, and which times they accept, on a machine that may be busy with other work.

A wait ends when its condition holds; only a fault lets it last `PATIENCE` seconds. A test that also limits how long
something takes asserts `in_time(took, seconds)`. In `make test` that accepts ten times as long, and more while the
machine is slow: enough to tell what happens at once from what hangs or waits for something else. `make chaos`
(option `--chaos`) accepts no more than `seconds`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["FOR_EVER", "PATIENCE", "eventually", "exact", "in_time", "slowness", "wait_for"]

PATIENCE = 120.0  # seconds
FOR_EVER = 600.0  # seconds; of waits that are cut short by what they wait for, and sooner than this by the test
MARGIN = 10.0
SHORTEST, LONGEST = 0.01, 0.25  # seconds between two looks at a condition
USUAL = 0.06  # seconds that `WORK` takes on two idle cores
WORK = """
import os, tempfile
with tempfile.TemporaryFile() as file:
    for _ in range(3):
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
sum(range(200_000))
"""

exact = False
"""Whether `in_time` has no margin; `tests/conftest.py` sets it."""


def slowness(samples: int = 3) -> float:
    """Return how many times as long as usual a fixed piece of work takes now: at least 1.

    The work starts a process, writes to the disk and computes; the slowest of the samples counts.
    """
    worst = 0.0
    for _ in range(samples):
        begun = time.monotonic()
        subprocess.run([sys.executable, "-I", "-S", "-c", WORK], check=True)
        worst = max(worst, time.monotonic() - begun)
    return max(1.0, worst / USUAL)


def in_time(took: float, seconds: float) -> bool:
    """Say whether something that took `took` seconds was done within `seconds`, with a margin unless `exact`.

    The slowness of the machine is measured only if ten times as long does not suffice.
    """
    if exact:
        return took < seconds
    return took < MARGIN * seconds or took < MARGIN * seconds * slowness()


def wait_for(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Return what the condition gives, as soon as that is true; fail after `PATIENCE` seconds."""
    begun = looked = time.monotonic()
    while not (found := condition()):
        now = time.monotonic()
        if now > begun + PATIENCE:
            raise AssertionError(f"{what} did not come about within {PATIENCE:g} s")
        time.sleep(pause_after(now - looked))
        looked = time.monotonic()
    return found


async def eventually(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Coroutine version of `wait_for`: the loop runs on meanwhile."""
    begun = looked = time.monotonic()
    while not (found := condition()):
        now = time.monotonic()
        if now > begun + PATIENCE:
            raise AssertionError(f"{what} did not come about within {PATIENCE:g} s")
        await asyncio.sleep(pause_after(now - looked))
        looked = time.monotonic()
    return found


def pause_after(took: float) -> float:
    """Return for how long to wait between two looks that take so long: looking must not keep others from their work."""
    return min(max(SHORTEST, 3 * took), LONGEST)
