"""Every test of a promise has a stage of its own, on each ground."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.promises.grounds import GROUNDS
from tests.promises.harness import Stage, on, set_stage


@pytest.fixture(params=[*GROUNDS, on("activemq", at_length=True)])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A stage on each ground; tests of one alone have `@pytest.mark.parametrize("stage", ["redis"], indirect=True)`."""
    with set_stage(tmp_path, request.param) as found:
        yield found
