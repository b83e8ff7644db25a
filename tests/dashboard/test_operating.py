"""Putting things right: failures, dead letters, workflows and schedules, with a real worker, server and browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from celeriac import Celeriac, chain, group
from tests.dashboard.browsing import opened
from tests.dashboard.seeding import SHOP
from tests.patience import wait_for
from tests.web.served import Served

WAREHOUSE = (
    SHOP
    + '''

def ship(order: int, door: str) -> int:
    """Fail until there is a file of this name."""
    if not Path(door).exists():
        raise OSError(f"the warehouse is closed: {door}")
    return order


for door in ("gate", "dock"):
    app.task(name=f"shop.ship_{door}", max_retries=0)(ship)


@app.task(name="shop.pack")
def pack(order: int, door: str) -> int:
    """Become a dead letter, until there is a file of this name."""
    if not Path(door).exists():
        raise Reject("no box is large enough")
    return order
'''
)


class Shop(NamedTuple):
    served: Served
    address: str
    app: Celeriac

    def touch(self, name: str) -> None:
        (self.served.folder / name).touch()

    def send(self, task: str, *args: object) -> str:
        return str(self.app.signature(task, args).apply_async().id)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("warehouse")
    (folder / "shop.py").write_text(WAREHOUSE, encoding="utf-8")
    app = Celeriac("shop", broker_url=f"sqlite:///{folder}/celeriac.db", environ={},
                   task_queues=["mail", "reports", "media"])  # fmt: skip
    served = Served(folder)
    try:
        served.worker("-Q", "default,mail,reports,media", "--beat")
        yield Shop(served, served.web()[1], app)
    finally:
        served.end()
        app.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with opened(browser) as watched:
        yield watched.page


def said(page: Page) -> Locator:
    return page.locator("#said")


def fail(shop: Shop, door: str, count: int) -> None:
    """Let so many tasks fail for this door, and wait until the history knows each of them."""
    before = failures(shop, door)
    for number in range(count):
        shop.send(f"shop.ship_{door}", number, door)
    wait_for(lambda: failures(shop, door) == before + count, "the history knows the failed tasks")


def failures(shop: Shop, door: str) -> int:
    """Return how many failed attempts for this door the history knows. Workers write it after the results."""
    history = shop.app.history
    assert history is not None
    found = shop.app.broker.complete(history.signatures())
    return sum(one.count for one in found if one.title.endswith(door))


def open_failure(page: Page, shop: Shop, door: str) -> None:
    page.goto(f"{shop.address}/failures")
    page.get_by_role("link", name=re.compile(f"the warehouse is closed: {door}$")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"OSError: the warehouse is closed: {door}")


def test_failures_of_one_cause_are_one_row_that_is_resolved_and_comes_back(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.address}/failures?q=task:shop.ship_gate")
    expect(page.get_by_text("No failure is like that")).to_be_visible()
    fail(shop, "gate", 3)
    row = page.get_by_role("row", name=re.compile("the warehouse is closed: gate"))
    expect(row).to_be_visible()  # without a reload
    expect(row.get_by_role("cell").nth(2)).to_have_text("3")
    expect(row).to_contain_text("shop.ship_gate in shop.py: ship")
    expect(row.get_by_text("New")).to_be_visible()
    row.get_by_role("checkbox").check()
    page.get_by_role("button", name="Resolve").click()
    expect(said(page)).to_have_text("Resolved: 1 failure.")
    expect(row).to_have_count(0)
    fail(shop, "gate", 1)
    expect(row.get_by_text("Regressed")).to_be_visible()
    row.get_by_role("link").first.click()
    expect(page.get_by_text("It has come back.")).to_be_visible()
    expect(page.get_by_role("definition").first).to_have_text("4")
    expect(page.get_by_role("heading", name="Traceback")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("^Failed attempts: 4 failed"))).to_be_visible()
    page.get_by_role("button", name="Mute").click()
    expect(page.get_by_text(re.compile("Muted by local"))).to_be_visible()


def begin_canary(page: Page, count: int, failing: int) -> None:
    page.get_by_role("link", name="Send again…").click()
    expect(page.locator(".count")).to_have_text("6")
    page.get_by_label("Some first").check()
    page.get_by_label("How many").fill(str(count))
    page.get_by_label("May fail (%)").fill(str(failing))
    page.get_by_role("button", name="Send 6 again").click()


def figure(page: Page, name: str) -> Locator:
    return page.locator(".figure", has=page.get_by_text(name, exact=True)).locator("dd").first


def test_a_canary_that_fails_keeps_the_others_back_and_one_that_succeeds_lets_them_go(shop: Shop, page: Page) -> None:
    begun = page.get_by_role("row", name=re.compile("local Began a bulk action"))
    page.goto(f"{shop.address}/audit?kind=bulk")
    before = begun.count()
    fail(shop, "dock", 6)
    open_failure(page, shop, "dock")
    begin_canary(page, 2, 0)
    expect(page.get_by_role("heading", name="Stopped")).to_be_visible()
    expect(page.get_by_text(re.compile("of the first 2 have failed, and 0% may"))).to_be_visible()
    expect(figure(page, "Sent again")).to_have_text("2")
    expect(figure(page, "Left")).to_have_text("4")
    expect(page.get_by_role("link", name="Do the rest…")).to_be_visible()
    wait_for(lambda: failures(shop, "dock") == 8, "those that were sent first have failed again")
    shop.touch("dock")
    open_failure(page, shop, "dock")
    begin_canary(page, 2, 0)
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    expect(page.get_by_text("Of the first 2, 2 have ended, and 0 have failed.")).to_be_visible()
    expect(figure(page, "Sent again")).to_have_text("6")
    page.goto(f"{shop.address}/bulk")
    expect(page.get_by_role("row", name=re.compile("Send failed tasks again.*Done"))).to_be_visible()
    page.goto(f"{shop.address}/audit?kind=bulk")
    expect(begun).to_have_count(before + 2)


def test_dead_letters_are_told_sent_again_and_deleted(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.address}/dead")
    expect(page.get_by_text("There are no dead letters")).to_be_visible()
    kept, dropped = shop.send("shop.pack", 1, "box"), shop.send("shop.pack", 2, "box")
    row, other = (page.locator(f"tr[data-row='{id}']") for id in (kept, dropped))
    expect(row).to_contain_text("no box is large enough")
    expect(row).to_contain_text('order=1, door="box"')
    other.get_by_role("checkbox").check()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(said(page)).to_have_text("1 dead letter deleted.")
    expect(other).to_have_count(0)
    page.get_by_role("button", name="Send again", exact=True).click()
    expect(said(page)).to_have_text("Nothing was sent: select some dead letters first.")
    shop.touch("box")
    row.get_by_role("checkbox").check()
    page.get_by_role("button", name="Send again", exact=True).click()
    expect(page.get_by_text("There are no dead letters")).to_be_visible()
    wait_for(lambda: kept in shop.app.backend.fetch([kept]), "the letter is run")
    assert shop.app.backend.fetch([kept])[kept].state == "SUCCESS"


def box(page: Page, name: str) -> Locator:
    return page.locator(".graph").get_by_role("link", name=name)


def test_the_graph_of_a_workflow_is_live(shop: Shop, page: Page) -> None:
    waits = shop.app.signature("media.resize", ("lift",), immutable=True)
    first, last = (shop.app.signature("shop.checkout", (number,), immutable=True) for number in (1, 2))
    result = chain(first, group(waits, first), last).apply_async()
    page.goto(f"{shop.address}/workflows")
    page.locator(f"tr[data-row='{result.workflow_id}']").get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("checkout → 2 tasks → checkout")
    expect(box(page, "media.resize: running")).to_be_visible()
    expect(box(page, "shop.checkout: waiting")).to_be_visible()
    assert page.locator(".graph .edge").count() == 5
    shop.touch("lift")
    expect(page.get_by_role("heading", name="Succeeded")).to_be_visible()
    expect(box(page, "shop.checkout: waiting")).to_have_count(0)
    expect(page.locator(".graph a.critical", has_text="resize")).to_be_visible()


def test_a_part_of_a_workflow_is_revoked_and_all_of_it_is_run_again(shop: Shop, page: Page) -> None:
    waits = [shop.app.signature("media.resize", (f"hall-{number % 2}",), immutable=True) for number in range(60)]
    last = shop.app.signature("shop.checkout", (2,), immutable=True)
    result = chain(group(waits), last).apply_async()
    page.goto(f"{shop.address}/workflows/{result.workflow_id}")
    page.locator(".graph").get_by_role("link", name=re.compile("^60 × resize: ")).click()
    expect(page.get_by_text("60 tasks of the part that was opened")).to_be_visible()
    page.get_by_role("button", name="Revoke these 60…").click()
    page.locator("#revoke-part").get_by_label("End those that run, too").check()
    page.get_by_role("button", name="Revoke 60", exact=True).click()
    expect(said(page)).to_contain_text("60 tasks are revoked")
    expect(page.locator(".graph").get_by_role("link", name="60 × resize: 60 revoked")).to_be_visible()
    expect(box(page, "shop.checkout: not run")).to_be_visible()
    shop.touch("hall-0")
    shop.touch("hall-1")
    page.get_by_role("button", name="Run the 61 again that did not succeed").click()
    expect(said(page)).to_contain_text("60 tasks were sent again. The others wait for them.")
    expect(page.get_by_role("heading", name="Succeeded")).to_be_visible()


def test_a_schedule_is_added_with_its_faults_told_in_place_and_is_seen_at_work(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.address}/schedules")
    page.get_by_role("link", name="Add a schedule").click()
    page.get_by_label("Name", exact=True).fill("rounds")
    page.get_by_label("When", exact=True).fill("61 * * * *")
    page.get_by_label("Task", exact=True).fill("shop.chekout")
    page.get_by_label("Arguments", exact=True).fill("[1")
    page.get_by_role("button", name="Add").click()
    expect(said(page)).to_have_text("Nothing was saved: 3 fields are wrong.")
    expect(page.get_by_label("When", exact=True)).to_have_value("61 * * * *")
    expect(page.locator("#schedule-fault")).to_contain_text("61")
    expect(page.locator("#task-fault")).to_have_text("There is no task 'shop.chekout'. Did you mean 'shop.checkout'?")
    expect(page.locator("#args-fault")).to_contain_text("This is no JSON")
    page.get_by_label("When", exact=True).fill("* * * * * *")
    page.get_by_label("Task", exact=True).fill("shop.checkout")
    page.get_by_label("Arguments", exact=True).fill("[1]")
    page.get_by_role("button", name="Check").click()
    expect(page.locator(".times li")).to_have_count(5)
    expect(page.get_by_text("Every second, UTC")).to_be_visible()
    page.get_by_role("button", name="Add").click()
    expect(said(page)).to_have_text("Added.")
    expect(page.locator(".dots li").first).to_be_visible()  # it has run
    expect(page.locator(".dots .s-success").first).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("What comes meanwhile is left out.").first).to_be_visible()
    page.get_by_role("button", name="Run now").click()
    expect(said(page)).to_contain_text("Sent, besides its ticks.")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.get_by_role("link", name="Change").click()
    expect(page.get_by_label("When", exact=True)).to_have_value("* * * * * *")
    expect(page.get_by_label("Arguments", exact=True)).to_have_value("[1]")
    page.get_by_label("When", exact=True).fill("2h")
    page.get_by_label("Time zone").fill("")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("every 2 hours").first).to_be_visible()
    page.get_by_role("button", name="Remove…").click()
    page.get_by_role("button", name="Remove it").click()
    expect(said(page)).to_have_text("rounds is removed.")
    page.goto(f"{shop.address}/audit")
    for what in ("Add a schedule", "Pause a schedule", "Run a schedule now", "Change a schedule", "Remove a schedule"):
        expect(page.get_by_role("row", name=re.compile(f"local {what}"))).to_be_visible()
