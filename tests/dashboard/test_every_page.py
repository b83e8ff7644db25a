"""Every page, with nothing, one, many, and hostile strings in every field: whole, harmless, and for everybody.

CELERIAC_TEST_PICTURES=build/dashboard keeps pictures of all of them, in both themes and two widths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from playwright.sync_api import Browser, Page
from starlette.routing import compile_path

from celeriac.dashboard.application import ACTIONS, PAGES
from tests import patience
from tests.dashboard.browsing import THEMES, WIDTHS, opened
from tests.dashboard.places import LISTS, SIZES, Place, served_place
from tests.dashboard.seeding import HOSTILE
from tests.patience import FOR_EVER, PATIENCE
from tests.server_process import missing

AXE: Final = Path(__file__).resolve().parents[2] / ".venv/peers/axe/node_modules/axe-core/axe.min.js"
SERIOUS: Final = ("serious", "critical")
PICTURES: Final = os.environ.get("CELERIAC_TEST_PICTURES", "")
ALL_WIDTHS: Final = (1280, 390, 2560)  # a page is opened and audited in the first; the last is for the longest words
PARAMETERS: Final = ("q", "sort", "range", "show", "offset", "queue", "status", "in", "after", "cursor", "checked")
ELSEWHERE: Final = {
    "/tasks/selected/terminate",  # nothing runs in these places
    "/tasks/{id:path}/terminate",
    "/tasks/{id:path}/run-now",
    "/queues/{queue:path}/purge",
    "/workers/{worker:path}/forget",  # no worker is lost
    "/workflows/{id}/retry",  # none has failed
    "/bulk/{id}/stop",
}
"""Actions whose buttons need a state that these places may not have; other tests press them."""

LOOK: Final = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)]
  const named = (one) => one.labels?.length || one.ariaLabel || one.textContent.trim()
  const submits = (button) => button.form && button.type === "submit"
  const works = (button) => submits(button) || button.popoverTargetElement || button.dataset.copy
  const posts = (button) => (button.getAttribute("formmethod") ?? button.form?.getAttribute("method")) === "post"
  return {
    actions: all("button").filter(posts)
      .map((one) => (one.getAttributeNode("formaction") ?? one.form.getAttributeNode("action")).value),
    links: all("main a[href]").map((one) => one.getAttribute("href")),
    wrong: {
      headings: all("h1").length - 1,
      styles: all("[style], [onerror], [onclick], [onload]").length,
      foreign: all("main :is(script, img, iframe, object, embed)").length,
      faults: all("main .fault").filter((one) => one.textContent.includes("The server has failed")).length,
      empty: all("[data-fragment]:not([data-fragment=statistics])")  // workers that do not answer have none
        .filter((one) => !one.textContent.trim()).map((one) => one.dataset.fragment).join(),
      unnamed: all("main :is(input:not([type=hidden]), select, button)").filter((one) => !named(one)).length,
      needScripts: all("main button").filter((one) => !works(one)).map((one) => one.outerHTML).join(),
    },
  }
}"""
WIDTH: Final = "document.documentElement.scrollWidth"
THIN_OUT: Final = """() => {
  const held = ({ name, value }) => name + (/^(class|role|type)$/.test(name) ? value : !value)
  const said = (one) => [one.tagName, !one.textContent.trim(), ...[...one.attributes].map(held)].join(" ")
  const shape = (one) => [said(one), ...[...one.children].map(shape)]
  const path = (one) => one ? `${path(one.parentElement)}/${one.tagName}.${one.getAttribute("class")}` : ""
  const kind = (one) => `${path(one.parentElement)}: ${said(one)}`
  for (const parent of document.querySelectorAll("main :is(tbody, ul, ol, dl, svg, g, datalist, select)")) {
    const seen = new Set()
    for (const one of [...parent.children]) {
      const its = JSON.stringify(shape(one))
      if (seen.has(its)) one.remove()
      seen.add(its)
    }
  }
  return [...new Set([...document.querySelectorAll("body *")].map(kind))]
}"""
"""Leaves one row of each kind: rows that differ in their texts alone are all as accessible as the first of them.

Returns the kinds of elements that are left. (The colour behind a text is that of an element around it.)
"""
AUDIT: Final = "(rules) => axe.run(document, {resultTypes: ['violations'], ...rules})"
CONTRAST: Final = {"runOnly": ["color-contrast"]}  # the one thing that depends on the theme


@pytest.fixture(scope="module")
def audited() -> set[str]:
    """The kinds of elements on the pages that were audited."""
    return set()


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Place]]:
    size = request.param
    with served_place(tmp_path_factory.mktemp(size), hostile=size == "hostile", **SIZES[size]) as made:
        yield size, made


PLACES = [pytest.param(size, marks=pytest.mark.at_length) if size == "one" else size for size in SIZES]


@pytest.mark.parametrize("place", PLACES, indirect=True)  # (hostile rows are one of each kind, too)
@pytest.mark.timeout(FOR_EVER)  # it is computing all the time
def test_each_page_is_whole_harmless_and_accessible(
    place: tuple[str, Place], browser: Browser, audited: set[str]
) -> None:
    size, served = place
    missing = {page.name for page in PAGES} - served.pages.keys()
    assert not missing or size == "nothing", f"no address is known of {missing}: add it to places.py"
    wrong: list[Any] = []
    actions: set[str] = set()
    with opened(browser) as watched:
        page = watched.page
        for path, is_typical in served.paths:
            response = page.goto(served.address + path, wait_until="domcontentloaded")
            assert response is not None
            if response.status != 200:
                wrong.append((path, response.status, page.locator("main").inner_text()))
            found = page.evaluate(LOOK)
            actions.update(found["actions"])
            wrong += [(path, name, what) for name, what in found["wrong"].items() if what]
            wrong += [(path, "leads elsewhere", link) for link in found["links"] if not re.match(r"/(?!/)|#", link)]
            for width in ALL_WIDTHS if size == "hostile" or patience.exact else ALL_WIDTHS[:2]:
                if width != ALL_WIDTHS[0]:
                    page.set_viewport_size({"width": width, "height": 900})
                if (wide := page.evaluate(WIDTH)) > width:
                    wrong.append((path, f"is {wide} pixels wide in a window of {width}"))
            page.set_viewport_size({"width": ALL_WIDTHS[0], "height": 900})
            if PICTURES:
                shoot(page, Path(PICTURES) / size, path)
            if is_typical:
                wrong += [(path, fault) for fault in accessibility(page, audited)]
    assert not wrong, "\n".join(map(str, wrong))
    if size == "hostile":
        unseen = {action.path for action in ACTIONS if not any(map(compile_path(action.path)[0].match, actions))}
        assert unseen - ELSEWHERE == set(), "no form of any page leads to these actions"


def accessibility(page: Page, audited: set[str]) -> list[Any]:
    """Return what axe finds, in both themes, unless all that is there was audited on other pages."""
    kinds = set(page.evaluate(THIN_OUT))
    if not AXE.exists() or kinds <= audited:  # `test_axe_is_there` says that it is missing
        return []
    audited |= kinds
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = []
    for theme, rules in (("light", {}), ("dark", CONTRAST)):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        found += [
            (theme, one["id"], [node["html"][:300] for node in one["nodes"][:3]])
            for one in page.evaluate(AUDIT, rules)["violations"]
            if one["impact"] in SERIOUS
        ]
    page.emulate_media(color_scheme="light")
    return found


def shoot(page: Page, folder: Path, path: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", path).strip("-")[:80] or "overview"
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=folder / f"{name}-{theme}-{width}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": ALL_WIDTHS[0], "height": 900})


def test_axe_is_there() -> None:
    if not AXE.exists():
        missing("no axe-core: make servers")
    assert "axe v" in AXE.read_text(encoding="utf-8")[:100]


@pytest.mark.parametrize("place", ["many"], indirect=True)
def test_each_page_is_complete_without_scripts(place: tuple[str, Place], browser: Browser) -> None:
    served = place[1]
    with opened(browser, java_script_enabled=False) as watched:
        for paths in served.pages.values():
            watched.page.goto(served.address + paths[-1])
            text = watched.page.locator("main").inner_text()
            assert len(text) > 20, paths[-1]
            assert "Loading" not in text


@pytest.mark.parametrize("place", ["nothing"], indirect=True)
def test_an_empty_list_says_so(place: tuple[str, Place]) -> None:
    with httpx.Client(base_url=place[1].address, timeout=PATIENCE, trust_env=False) as client:
        assert "Nothing fails" in client.get("/failures").text
        assert "There are no dead letters" in client.get("/dead").text


@pytest.mark.parametrize("place", ["hostile"], indirect=True)
def test_a_parameter_of_the_address_is_harmless(place: tuple[str, Place]) -> None:
    served = place[1]
    with httpx.Client(base_url=served.address, timeout=PATIENCE, trust_env=False) as client:
        for paths in LISTS.values():
            for name in PARAMETERS:
                html = client.get(paths[0], params={name: HOSTILE[0]}, headers={"Accept": "text/html"}).text
                assert "</html>" in html
                assert "<script>alert" not in html, (paths[0], name)
