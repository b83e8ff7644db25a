"""The overview, queues and workers in a real browser: what they show, live, by keyboard, without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from celeriac import Celeriac
from tests.dashboard.browsing import Watched, opened, seeded
from tests.patience import PATIENCE, in_time, wait_for
from tests.web.served import Served


class Shop(NamedTuple):
    served: Served
    address: str
    app: Celeriac


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """An empty app with a worker; and queues of which each is for one test alone."""
    folder = tmp_path_factory.mktemp("shop")
    app = seeded(folder, rows=0, queues=["letters", "scrap", "cellar"])
    served = Served(folder)
    try:
        served.worker("-Q", "default,reports,media", "-n", "shop@box")
        yield Shop(served, served.web()[1], app)
    finally:
        served.end()
        app.close()


def live(page: Page) -> None:
    expect(page.locator("#pulse")).to_have_text("Live")


def test_a_failure_is_on_the_open_overview_at_once(shop: Shop, watched: Watched) -> None:
    page = watched.page
    page.goto(shop.address)
    live(page)
    failures = page.get_by_role("region", name="Latest failures")
    shop.app.send_task("shop.charge_card", (1, "the first one"))
    expect(failures).to_contain_text("the first one")
    begun = page.evaluate("performance.now()")
    shop.app.send_task("shop.charge_card", (1, "the second one"))
    expect(failures).to_contain_text("the second one")
    assert in_time((page.evaluate("performance.now()") - begun) / 1000, 1.5)  # 1 s, and the browser's own waits
    link = failures.get_by_role("link", name="shop.charge_card").first
    expect(link).to_have_attribute("href", re.compile("^/tasks/"))
    expect(page.get_by_role("list", name="Troubles")).to_contain_text("New failure")


def test_what_is_wrong_is_told_in_words_and_goes_when_it_is_put_right(shop: Shop, watched: Watched) -> None:
    page = watched.page
    page.goto(shop.address)
    result = shop.app.send_task("mail.send_receipt", (1,), queue="letters")
    troubles = page.get_by_role("list", name="Troubles")
    expect(troubles).to_contain_text("No worker receives from the queue letters, and 1 task waits.")
    expect(troubles).to_contain_text("celeriac -A shop worker -Q letters")
    page.goto(f"{shop.address}/queues/letters")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status").filter(has_text="is paused")).to_be_visible()
    page.goto(shop.address)
    expect(troubles).to_contain_text("The queue letters is paused, and 1 task waits.")
    page.goto(f"{shop.address}/queues/letters")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.goto(f"{shop.address}/workers/shop%40box")
    page.get_by_role("button", name="Add a queue…").click()
    page.get_by_label("Queue", exact=True).fill("letters")
    page.get_by_role("button", name="Receive from it").click()
    expect(page.get_by_role("status").filter(has_text="receives from")).to_be_visible()
    assert result.get(timeout=PATIENCE) == "receipt 1"
    page.goto(shop.address)
    row = page.get_by_role("region", name="Queues").get_by_role("row", name=re.compile("^letters"))
    expect(row).to_be_visible()
    expect(row).not_to_contain_text("no worker")
    expect(page.locator("main")).not_to_contain_text("No worker receives from the queue letters")


def test_a_purge_wants_the_number_and_deletes_no_more_than_was_seen(shop: Shop, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{shop.address}/queues/scrap")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    for number in range(3):
        shop.app.send_task("reports.build", (f"report {number}",), queue="scrap")
    waiting = page.get_by_role("region", name="What waits").get_by_role("row", name=re.compile("reports.build"))
    expect(waiting).to_have_count(3)
    page.get_by_role("button", name="Purge…").click()
    asked = page.get_by_role("dialog", name="Purge scrap?")
    expect(asked.get_by_label("Type 3 to confirm")).to_be_visible()
    asked.get_by_label("Type 3 to confirm").fill("2")
    asked.get_by_role("button", name="Delete 3 messages").click()
    expect(page.locator("#said")).to_contain_text("Nothing was deleted: type 3 to confirm.")
    page.get_by_role("button", name="Purge…").click()
    asked.get_by_label("Type 3 to confirm").fill("3")
    asked.get_by_role("button", name="Delete 3 messages").click()
    expect(page.locator("#said")).to_contain_text("3 waiting messages were deleted")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_single_keys_can_be_turned_off(shop: Shop, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{shop.address}/queues")
    page.get_by_role("button", name="Keyboard").click()
    page.get_by_label("Use these keys").uncheck()
    page.get_by_role("button", name="Close").click()
    page.goto(f"{shop.address}/queues")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox").first).not_to_be_focused()
    page.get_by_role("button", name="Keyboard").click()
    expect(page.get_by_label("Use these keys")).not_to_be_checked()
    page.get_by_label("Use these keys").check()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox").first).to_be_focused()


def test_messages_are_moved_by_keyboard_alone(shop: Shop, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{shop.address}/queues")
    live(page)
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("medi")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row")).to_have_count(2)  # with that of the heads
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("media")
    shop.app.send_task("media.resize", ("moved",), queue="media", countdown=3600)
    shop.app.send_task("media.resize", ("stays",), queue="media", countdown=7200)
    page.goto(f"{shop.address}/queues/media?show=scheduled")
    row = page.get_by_role("row", name=re.compile("moved"))
    expect(row).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(row.get_by_role("checkbox")).to_be_checked()
    page.get_by_label("Move selected to").focus()
    page.keyboard.type("reports")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("1 message was moved to reports.")
    left = page.get_by_role("region", name="What waits").get_by_role("row", name=re.compile("media.resize"))
    expect(left).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("o")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_slots_show_what_runs_and_whether_it_takes_too_long(shop: Shop, watched: Watched) -> None:
    page, done = watched.page, shop.served.folder / "built"
    result = shop.app.send_task("reports.build", ("built",), queue="reports", soft_time_limit=1)
    page.goto(f"{shop.address}/workers")
    row = page.get_by_role("row", name=re.compile("^shop@box"))
    expect(row.get_by_role("list", name="1 of 2 slots for plain functions are taken")).to_be_visible()
    expect(row.get_by_role("link", name=re.compile("reports.build for .* over its soft limit of 1.0"))).to_be_attached()
    row.get_by_role("link", name="shop@box").click()
    expect(page.get_by_role("region", name="Slots")).to_contain_text("over its soft limit")
    page.get_by_role("button", name="Resize…").click()
    page.get_by_label("How many").fill("2")
    page.get_by_role("button", name="Resize", exact=True).click()
    expect(page.locator("#said")).to_contain_text("grows by 2, to 4")
    expect(page.get_by_role("list", name="1 of 4 slots for plain functions are taken")).to_be_visible()
    page.get_by_role("button", name="Resize…").click()
    page.get_by_label("How many").fill("2")
    page.get_by_label("fewer").check()
    page.get_by_role("button", name="Resize", exact=True).click()
    expect(page.locator("#said")).to_contain_text("shrinks by 2, to 2")
    done.touch()
    assert result.get(timeout=PATIENCE) == "built"
    expect(page.get_by_role("list", name="0 of 2 slots for plain functions are taken")).to_be_visible()


def test_what_its_reader_is_doing_is_kept_while_the_page_changes(shop: Shop, watched: Watched) -> None:
    page = watched.page
    page.goto(f"{shop.address}/workers/shop%40box")
    live(page)
    page.get_by_role("button", name="Rate limit…").click()
    page.get_by_role("dialog", name="Limit how often a task starts").get_by_label("Task").fill("shop.checkout")
    shop.app.send_task("shop.checkout", (1,)).get(timeout=PATIENCE)
    statistics = page.get_by_role("region", name="Since it started")
    expect(statistics.get_by_role("row", name=re.compile("^shop.checkout"))).to_be_visible()
    asked = page.get_by_role("dialog", name="Limit how often a task starts")
    expect(asked.get_by_label("Task")).to_have_value("shop.checkout")
    expect(asked.get_by_label("Task")).to_be_focused()
    asked.get_by_label("Rate").fill("100/s")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("100")


def test_all_of_it_works_without_javascript(shop: Shop, browser: Browser) -> None:
    with opened(browser, java_script_enabled=False) as watched:
        page = watched.page
        page.goto(shop.address)
        expect(page.get_by_role("region", name="Queues").get_by_role("link", name="media")).to_be_visible()
        page.get_by_role("button", name="Dark").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.get_by_role("region", name="Queues").get_by_role("link", name="media").click()
        page.get_by_role("button", name="Pause").click()
        expect(page.locator("#said")).to_contain_text("The queue media is paused")
        page.get_by_role("button", name="Resume").click()
        expect(page.locator("#said")).to_contain_text("The queue media is resumed")
        page.get_by_role("link", name="Workers").click()
        page.get_by_role("link", name="shop@box").click()
        page.get_by_role("button", name="Log level…").click()  # a popover needs no script
        page.get_by_label("Level", exact=True).select_option("debug")
        page.get_by_role("button", name="Set").last.click()
        expect(page.locator("#said")).to_contain_text("log level DEBUG")


def test_the_theme_is_kept(shop: Shop, watched: Watched) -> None:
    page = watched.page
    page.goto(shop.address)
    page.get_by_role("button", name="Dark").click()
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    wait_for(lambda: any(cookie["name"] == "celeriac-theme" for cookie in page.context.cookies()), "the cookie")
    page.goto(f"{shop.address}/queues")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_a_worker_that_is_killed_stays_with_what_it_held(shop: Shop, watched: Watched) -> None:
    page = watched.page
    victim = shop.served.worker("-Q", "cellar", "-n", "victim@box")
    shop.app.send_task("reports.build", ("never",), queue="cellar")
    page.goto(f"{shop.address}/workers/victim%40box")
    expect(page.get_by_role("region", name="Slots")).to_contain_text("reports.build")
    victim.kill()
    victim.wait()
    expect(page.locator("main")).to_contain_text("has not said that it stopped")
    held = page.get_by_role("region", name="What it held")
    expect(held.get_by_role("row", name=re.compile("reports.build"))).to_contain_text("ready")
    page.get_by_role("link", name="Workers", exact=True).first.click()
    expect(page.get_by_role("row", name=re.compile("^victim@box"))).to_contain_text("lost")
