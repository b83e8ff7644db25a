"""The frame of all pages: navigation, headers, messages, errors, the stream. In a real browser, from a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.dashboard.browsing import Watched, seeded
from tests.web.served import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("dashboard")
    seeded(folder, rows=30, hours=1.0).close()
    made = Served(folder)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def address(served: Served) -> str:
    return served.web()[1]


def test_a_page_has_a_title_a_navigation_and_its_content(address: str, watched: Watched) -> None:
    watched.page.goto(address)
    expect(watched.page).to_have_title("Overview · shop")
    expect(watched.page.get_by_role("navigation", name="Pages").get_by_role("link", name="Overview")).to_be_visible()
    expect(watched.page.locator("#pulse")).to_have_text("Live")
    expect(watched.page.get_by_role("row", name=re.compile("^default"))).to_be_visible()


@pytest.mark.parametrize("path", ["/", "/?fragment=queues", "/there-is-none", "/sign-in"])
def test_every_answer_has_strict_headers(address: str, path: str) -> None:
    headers = httpx.get(address + path, headers={"Accept": "text/html"}, trust_env=False).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "private, no-store"


def test_the_api_is_below_the_same_address(address: str) -> None:
    assert httpx.get(f"{address}/livez", trust_env=False).json() == {"status": "ok"}
    found = httpx.get(f"{address}/api/v1/nonsense", trust_env=False)
    assert found.headers["content-type"] == "application/problem+json"


def test_an_address_without_a_page_is_told_as_a_page(address: str, watched: Watched) -> None:
    response = watched.page.goto(f"{address}/nonsense")
    assert response is not None
    assert response.status == 404
    expect(watched.page.get_by_role("heading", level=1)).to_have_text("There is nothing at this address")
    watched.faults.clear()  # Chromium reports the status in the console


def test_assets_are_kept_for_ever(address: str) -> None:
    html = httpx.get(address, trust_env=False).text
    names = re.findall(r'(?:href|src)="(/assets/[^"]+)"', html)
    assert len(names) >= 3
    for name in names:
        assert "immutable" in httpx.get(address + name, trust_env=False).headers["cache-control"]
    assert Path(names[0]).suffix
