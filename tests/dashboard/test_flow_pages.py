"""Pages of failures, dead letters, workflows, schedules, bulk actions and the audit: with nothing and with much, with
hostile texts in every field, on a phone, and without scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from celeriac import Celeriac, chain, group
from tests.dashboard.browsing import Watched, opened, seeded
from tests.dashboard.seeding import HOSTILE
from tests.patience import PATIENCE, wait_for
from tests.web.served import Served

LISTS = (
    "/failures",
    "/dead",
    "/workflows",
    "/schedules",
    "/schedule-form",
    "/audit",
    "/bulk",
    "/bulk/new?action=retry",
)


class Place(NamedTuple):
    address: str
    paths: list[str]
    folder: Path


def served_place(folder: Path, hostile: bool = False, **options: int) -> Iterator[Place]:
    app = seeded(folder, hostile=hostile, hours=1.0, **options)
    paths = list(LISTS)
    if options["rows"]:
        tasks = [text.replace("\x00", "") for text in HOSTILE] if hostile else ["shop.checkout"] * 3
        calls = [app.signature(task, (1,), immutable=True) for task in tasks]
        for call in calls:
            app.task(name=call.task)(abs)
        result = chain(calls[0], group(calls), group(calls * 30), calls[-1]).apply_async()
        assert app.history is not None
        signature = app.broker.complete(app.history.signatures())[0].signature
        names = [info.name for info in app.schedules.list()]
        paths += [
            f"/failures/{signature}",
            f"/workflows/{result.workflow_id}",
            f"/workflows/{result.workflow_id}?inside=3",
        ]
        paths += [f"/schedules/{quote(name, safe='')}" for name in names[:7]]
        paths += [f"/schedule-form/{quote(name, safe='')}" for name in names[:1]]
        texts = dict.fromkeys(
            ("checked", "q", "name", "schedule", "task", "args", "tz", "queue", "id", "by", "jitter"), HOSTILE[0]
        )
        paths += [f"/failures?{urlencode({'q': f'task:{HOSTILE[0]}'})}", f"/schedule-form?{urlencode(texts)}"]
        paths += [f"/bulk/new?{urlencode(texts | {'action': 'drop'})}", f"/audit?{urlencode({'by': HOSTILE[2]})}"]
        paths += [f"/workflows?{urlencode({'id': HOSTILE[0]})}", f"/dead?{urlencode({'queue': HOSTILE[0]})}"]
    app.close()
    served = Served(folder)
    try:
        yield Place(served.web()[1], paths, folder)
    finally:
        served.end()


@pytest.fixture(scope="module", params=["nothing", "one", "many", "hostile"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    sizes = {"nothing": {"rows": 0}, "one": {"rows": 1, "schedules": 1}, "many": {"rows": 2000, "schedules": 70},
             "hostile": {"rows": 60, "schedules": 7}}  # fmt: skip
    yield from served_place(folder, request.param == "hostile", **sizes[request.param])


LOOK = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)]
  const named = (one) => one.labels?.length || one.ariaLabel || one.textContent.trim()
  return {
    headings: all("h1").length,
    styles: all("[style]").length,
    foreign: all("main :is(script, img, iframe)").length,
    faults: all("main .notice.fault").filter((one) => one.textContent.includes("The server has failed")).length,
    links: all("main a[href]").map((one) => one.getAttribute("href")),
    unnamed: all("main :is(input:not([type=hidden]), select, button)").filter((one) => !named(one)).length,
    width: document.documentElement.scrollWidth,
  }
}"""


def check(page: Page, path: str, width: int) -> None:
    """Check what holds for every page, whatever it shows."""
    found = page.evaluate(LOOK)
    links = found.pop("links")
    assert [link for link in links if not re.match(r"/(?!/)|#", link)] == [], path
    assert found.pop("width") <= width, f"{path} is wider than the screen"
    assert found == {"headings": 1, "styles": 0, "foreign": 0, "faults": 0, "unnamed": 0}, path


def test_each_page_is_whole_and_harmless_at_each_width(place: Place, watched: Watched) -> None:
    page = watched.page
    for path in place.paths:
        response = page.goto(place.address + path)
        assert response is not None
        assert response.status == 200, f"{path}: {page.locator('main').inner_text()}"
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            check(page, path, width)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from served_place(tmp_path_factory.mktemp("quiet"), rows=60, schedules=3)


def test_all_is_done_without_scripts(quiet: Place, browser: Browser) -> None:
    with opened(browser, java_script_enabled=False) as watched:
        page = watched.page
        expect.set_options(timeout=PATIENCE * 1000)
        page.goto(f"{quiet.address}/failures")
        page.get_by_role("row", name=re.compile("MemoryError")).get_by_role("checkbox").check()
        page.get_by_role("button", name="Mute").click()
        expect(page.locator("#said")).to_have_text("Muted: 1 failure.")
        page.get_by_role("link", name="Muted 1").click()
        page.get_by_role("link", name="MemoryError").click()
        page.get_by_role("link", name="7d").click()
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


@pytest.mark.parametrize("name", ["new", "check", "a/edit", "a/run"])
def test_a_schedule_may_be_named_as_an_address_ends(quiet: Place, name: str) -> None:
    app = Celeriac("shop", broker_url=f"sqlite:///{quiet.folder}/celeriac.db", environ={})
    app.schedules.add(name, 3600, app.signature(next(iter(app.builtin_tasks))))
    app.close()
    html = httpx.get(f"{quiet.address}/schedules/{quote(name, safe='')}", trust_env=False, timeout=PATIENCE).text
    assert re.search(rf"<h1[^>]*>\s*{name}", re.sub("<wbr>", "", html))
    assert f'href="/schedule-form/{quote(name, safe="")}"' in html


def test_more_than_a_thousand_are_typed_before_they_are_revoked(
    tmp_path_factory: pytest.TempPathFactory, browser: Browser
) -> None:
    for many in served_place(tmp_path_factory.mktemp("waiting"), rows=1500, schedules=0):
        with opened(browser) as watched:
            page = watched.page
            expect.set_options(timeout=PATIENCE * 1000)
            page.goto(f"{many.address}/bulk/new?action=revoke")
            count = page.locator(".count").inner_text().replace(",", "")
            assert int(count) > 1000
            page.get_by_label(f"Type {count} to confirm").fill("12")
            page.get_by_role("button", name="Revoke").click()
            expect(page.locator("#said")).to_contain_text("Nothing was done: type")
            page.get_by_label(f"Type {count} to confirm").fill(count)
            page.get_by_role("button", name="Revoke").click()
            expect(page.get_by_role("heading", name="Done")).to_be_visible()
            expect(page.locator("progress")).to_have_js_property("value", int(count))
