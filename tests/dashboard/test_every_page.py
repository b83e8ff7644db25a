"""Each page with hostile strings in every field, and for people who use a screen reader: no fault in the browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from celeriac.dashboard.application import PAGES
from tests.dashboard.browsing import opened, seeded
from tests.patience import PATIENCE
from tests.web.served import Served

AXE = Path(__file__).resolve().parents[2] / ".venv" / "peers" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")
LISTS = sorted(page.path for page in PAGES if not PARAMETER.search(page.path))
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard of an app with hostile strings in every field."""
    folder = tmp_path_factory.mktemp("hostile")
    seeded(folder, rows=20, hostile=True, hours=0.5, schedules=7, workers=7).close()
    served = Served(folder)
    try:
        yield served.web()[1]
    finally:
        served.end()


def links(address: str, path: str, most: int = 12) -> list[str]:
    """Return the pages of single things that a list leads to."""
    html = httpx.get(address + path, timeout=PATIENCE, trust_env=False).text
    found = re.findall(rf'href="({re.escape(path)}/[^"?]+)"', html) if path != "/" else []
    return list(dict.fromkeys(found))[:most]


@pytest.mark.parametrize("path", LISTS)
def test_hostile_strings_are_harmless(hostile: str, browser: Browser, path: str) -> None:
    with opened(browser) as watched:
        for shown in [path, *links(hostile, path)]:
            response = watched.page.goto(hostile + shown)
            assert response is not None
            assert response.status == 200, shown
            expect(watched.page.get_by_role("heading", level=1)).to_be_visible()
            assert watched.page.locator("main script, main img, main iframe, [onerror], [style]").count() == 0, shown
            assert watched.page.locator("a[href^='javascript' i]").count() == 0, shown


@pytest.mark.parametrize("path", LISTS)
def test_a_parameter_of_the_address_is_harmless(hostile: str, browser: Browser, path: str) -> None:
    with opened(browser) as watched:
        for name in ("name", "q", "sort", "range", "show", "offset", "queue", "status", "state"):
            watched.page.goto(f"{hostile}{path}?{name}=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
            assert watched.page.locator("main script").count() == 0
        watched.faults[:] = [fault for fault in watched.faults if "status of 4" not in fault]  # it may be refused


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_fault_for_assistive_technology(hostile: str, browser: Browser, theme: Any) -> None:
    if not AXE.exists():
        pytest.skip("no axe-core: make servers")
    source = AXE.read_text(encoding="utf-8")
    with opened(browser, color_scheme=theme, bypass_csp=True) as watched:
        for path in LISTS:
            for shown in [path, *links(hostile, path, 1)]:
                watched.page.goto(hostile + shown)
                watched.page.evaluate(source)
                found = watched.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
                faults = [
                    (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
                    for one in found["violations"]
                    if one["impact"] in SERIOUS
                ]
                assert faults == [], shown


@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_no_page_is_wider_than_the_window(hostile: str, browser: Browser, width: int) -> None:
    with opened(browser, viewport={"width": width, "height": 900}) as watched:
        for path in LISTS:
            for shown in [path, *links(hostile, path, 1)]:
                watched.page.goto(hostile + shown)
                assert watched.page.evaluate("document.documentElement.scrollWidth") <= width, shown
