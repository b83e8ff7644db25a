"""What all surfaces share: the seed of a run, which a failure prints, and how many inputs it makes."""

from __future__ import annotations

import random

import pytest


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    given: int | None = request.config.getoption("--fuzz-seed")
    found = random.randrange(2**32) if given is None else given
    print(f"--fuzz-seed {found}")
    return found


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    """How many inputs a surface gets: `--fuzz N`, or the module's `FEW`."""
    return int(request.config.getoption("--fuzz") or request.module.FEW)
