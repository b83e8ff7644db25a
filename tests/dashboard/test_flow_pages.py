"""Failures, dead letters, schedules and bulk actions without scripts; names of schedules; what has to be typed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest
from playwright.sync_api import Browser, expect

from celeriac import Celeriac
from tests.dashboard.browsing import Watched, opened
from tests.dashboard.places import Place, served_place
from tests.patience import PATIENCE, wait_for


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with served_place(tmp_path_factory.mktemp("quiet"), rows=60, schedules=3) as made:
        yield made


def test_all_is_done_without_scripts(quiet: Place, browser: Browser) -> None:
    with opened(browser, java_script_enabled=False) as watched:
        page = watched.page
        page.goto(f"{quiet.address}/failures")
        page.get_by_role("row", name=re.compile("MemoryError")).get_by_role("checkbox").check()
        page.get_by_role("button", name="Mute").click()
        expect(page.locator("#said")).to_have_text("Muted: 1 failure.")
        page.get_by_role("link", name="Muted 1").click()
        page.get_by_role("link", name="MemoryError").click()
        page.get_by_role("link", name="7d", exact=True).click()
        expect(page.get_by_role("img", name=re.compile("^Failed attempts"))).to_be_visible()
        page.goto(f"{quiet.address}/dead")
        page.get_by_role("link", name="Delete all…").click()
        expect(page.locator(".count")).to_have_text("60")
        page.get_by_role("button", name="Delete 60").click()
        wait_for(lambda: bool(page.goto(page.url)) and page.get_by_role("heading", name="Done").count() == 1, "the end")
        expect(page.locator(".figure", has_text="Deleted")).to_contain_text("60")
        page.goto(f"{quiet.address}/schedule-form")
        page.get_by_label("Name", exact=True).fill("by hand")
        page.get_by_label("When", exact=True).fill("0 3 * * *")
        page.get_by_label("Task", exact=True).fill("shop.checkout")
        page.get_by_role("button", name="Check").click()
        expect(page.locator("#args-fault")).to_contain_text("'order' is missing")
        assert "csrf" not in page.url
        page.get_by_label("Arguments", exact=True).fill("[1]")
        page.get_by_role("button", name="Check").click()
        expect(page.locator(".times li")).to_have_count(5)
        page.get_by_role("button", name="Add").click()
        expect(page.locator("#said")).to_have_text("Added.")
        page.get_by_role("button", name="Remove…").click()
        page.get_by_role("button", name="Remove it").click()
        expect(page.locator("#said")).to_have_text("by hand is removed.")


def test_types_of_tasks_have_rates_percentiles_and_failures(quiet: Place, watched: Watched) -> None:
    page = watched.page
    page.goto(quiet.address)
    types = page.get_by_role("region", name="Tasks by type")
    for head in ("Ended", "p50", "p95", "p99", "Failed"):
        expect(types.get_by_role("columnheader", name=head, exact=True)).to_be_visible()
    row = types.get_by_role("row", name=re.compile("^shop.charge_card"))
    expect(row).to_contain_text(re.compile(r"/s.*ms.*s.*%", re.DOTALL))


@pytest.mark.parametrize("name", ["new", "check", "a/edit", "a/run"])
def test_a_schedule_may_be_named_as_an_address_ends(quiet: Place, name: str) -> None:
    app = Celeriac("shop", broker_url=f"sqlite:///{quiet.folder}/celeriac.db", environ={})
    app.schedules.add(name, 3600, app.signature(next(iter(app.builtin_tasks))))
    app.close()
    html = httpx.get(f"{quiet.address}/schedules/{quote(name, safe='')}", trust_env=False, timeout=PATIENCE).text
    assert re.search(rf"<h1[^>]*>\s*{name}", re.sub("<wbr>", "", html))
    assert f'href="/schedule-form/{quote(name, safe="")}"' in html


def test_more_than_a_thousand_are_typed_before_they_are_revoked(quiet: Place, watched: Watched) -> None:
    app = Celeriac("shop", broker_url=f"sqlite:///{quiet.folder}/celeriac.db", environ={})
    template = app.message_template("shop.reject")
    app.broker.publish([template.message((), {}, {}) for _ in range(1001)])
    app.close()
    page = watched.page
    page.goto(f"{quiet.address}/bulk/new?action=revoke&q=task:shop.reject")
    expect(page.locator(".count")).to_have_text("1,001")
    page.get_by_label("Type 1001 to confirm").fill("12")
    page.get_by_role("button", name="Revoke").click()
    expect(page.locator("#said")).to_contain_text("Nothing was done: type")
    page.get_by_label("Type 1001 to confirm").fill("1001")
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    expect(page.locator("progress")).to_have_js_property("value", 1001)
