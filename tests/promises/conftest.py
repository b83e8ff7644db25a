"""Every test of a promise has a stage of its own, on each ground."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.promises.grounds import GROUNDS
from tests.promises.harness import Stage, on, set_stage

SHORT = (
    "run_elsewhere_and_its_children_die_with_it[hub-plain]", "start_elsewhere_within_its_lease_and_two_seconds[hub]",
    "test_a_task_that_kills_its_whole_worker_is_put_aside_too[hub]",
    "are_all_recorded_once[hub-down-10.0]", "used_again_on_its_return[delay-hub-down",
    "last_member_is_killed[hub-True]", "runs_once_with_two_workers[hub]",
)  # fmt: skip
"""Of the tests on the hub, which stands on the file of another ground, these are run by `make test` too."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the other tests on the hub to `make chaos`."""
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        on_hub = "promises" in item.path.parts and "hub" in (given.get("stage"), given.get("ground"))
        if on_hub and not any(words in item.nodeid for words in SHORT):
            item.add_marker(pytest.mark.at_length)


@pytest.fixture(params=[*GROUNDS, on("activemq", at_length=True)])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A stage on each ground; tests of one alone have `@pytest.mark.parametrize("stage", ["redis"], indirect=True)`."""
    with set_stage(tmp_path, request.param) as found:
        yield found
