"""One browser for all tests of a module, which run in the order of their file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.dashboard.browsing import Watched, chromium, opened

HERE = Path(__file__).parent


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of each module back into their order, which is random elsewhere.

    They share a shop, with a worker and a server, and look at all that is in it: what one leaves behind, the next sees.
    """
    for path in {item.path for item in items if item.path.parent == HERE}:
        places = [place for place, item in enumerate(items) if item.path == path]
        in_order = sorted((items[place] for place in places), key=_order)
        for place, item in zip(places, in_order, strict=True):
            items[place] = item


def _order(item: pytest.Item) -> tuple[int, int]:
    """Return the place of a test: those on the same `place` of a module follow each other."""
    indices: dict[str, int] = getattr(getattr(item, "callspec", None), "indices", {})
    return indices.get("place", 0), item.location[1] or 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    with chromium() as found:
        yield found


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    """A page without faults."""
    with opened(browser) as found:
        yield found
