"""Lists of tasks, and the page of one task: what ended, runs, waits and is scheduled, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from celeriac import Celeriac
from celeriac.inspector import Inspector
from tests.dashboard.browsing import Watched, opened, seeded
from tests.patience import PATIENCE, wait_for
from tests.web.served import Served


class Shop:
    """A folder with an app, a server, and a worker for some queues."""

    def __init__(self, folder: Path) -> None:
        self.app: Celeriac = seeded(folder, rows=0, queues=["paged", "bulk"])
        self.served = Served(folder)
        self.worker = self.served.worker("-Q", "default,mail,reports")
        self.address = self.served.web()[1]

    def send(self, task: str, *args: object, **options: object) -> str:
        return str(self.app.send_task(task, args=args, **options).id)

    def wait(self, id: str, *statuses: str) -> None:
        def status() -> bool:
            told = self.app.broker.complete(Inspector(self.app, timeout=PATIENCE).explain(id))
            return told.status in statuses

        wait_for(status, f"{id} is {statuses}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("tasks"))
    try:
        yield made
    finally:
        made.app.broker.close()
        made.served.end()


@pytest.fixture
def page(watched: Watched) -> Page:
    return watched.page


# --- Lists --------------------------------------------------------------------------------------------


def agree(tab: Locator, rows: Locator) -> bool:
    return int(re.sub(r"\D", "", tab.inner_text())) == rows.count()


def test_what_waits_runs_or_has_failed_is_in_lists_that_agree_with_their_counts(shop: Shop, page: Page) -> None:
    failed = shop.send("shop.charge_card", 17, "card declined by the bank")
    running = shop.send("reports.build", "never", queue="reports")
    waiting = shop.send("media.resize", "cat.png", queue="media")
    later = shop.send("shop.checkout", 99, countdown=3600)
    shop.wait(failed, "ended")
    shop.wait(running, "running")
    page.goto(f"{shop.address}/tasks?in=failed")
    row = page.get_by_role("row").filter(has=page.locator(f'[href="/tasks/{failed}"]'))
    expect(row).to_contain_text("card declined by the bank")
    expect(row).to_contain_text('order=17, why="card declined by the bank"')
    for tab, id in (("Waiting", waiting), ("Scheduled", later), ("Running", running)):
        link = page.get_by_role("navigation", name="State").get_by_role("link", name=re.compile(tab))
        link.click()
        expect(page.locator(f'[href="/tasks/{id}"]')).to_be_visible()
        wait_for(partial(agree, link, page.locator("tbody tr")), "the same count")
    page.goto(f"{shop.address}/scheduled")
    expect(page.locator(f'[href="/tasks/{later}"]')).to_be_visible()
    (shop.served.folder / "never").touch()


def test_a_filter_is_in_the_address_says_what_it_searched_and_what_is_wrong(shop: Shop, page: Page) -> None:
    id = shop.send("shop.charge_card", 18, "insufficient funds")
    shop.wait(id, "ended")
    page.goto(f"{shop.address}/tasks")
    page.keyboard.press("/")
    page.keyboard.type("error:ValueError insufficient")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"q=error%3AValueError\+insufficient"))
    expect(page.get_by_role("row")).to_have_count(2)
    expect(page.locator(".pager")).to_contain_text(re.compile(r"Looked at the newest \d+ of \d+ attempts"))
    page.goto(f"{shop.address}/tasks?q=stat:failure")
    expect(page.get_by_role("alert")).to_contain_text("There is no condition 'stat'. Did you mean 'state'?")
    page.goto(f"{shop.address}/tasks?in=waiting&q=runtime:%3E5s")
    expect(page.get_by_role("alert")).to_contain_text("A waiting task has no runtime: leave it out.")
    page.goto(f"{shop.address}/tasks?q=nothing-has-this-text")
    expect(page.get_by_text("Nothing matches")).to_be_visible()


def test_an_id_leads_to_its_task(shop: Shop, page: Page) -> None:
    id = shop.send("shop.checkout", 1)
    page.goto(f"{shop.address}/tasks?q={id}")
    page.get_by_role("link", name="Open its page").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("shop.checkout")


def test_words_are_completed_behind_those_that_are_there(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.address}/tasks")
    page.locator("#q").press_sequentially("state:failure char")
    offered = page.locator("#suggestions option").evaluate_all("all => all.map(one => one.value)")
    assert "state:failure task:shop.charge_card" in offered


def test_pages_are_turned_by_cursors(shop: Shop, page: Page) -> None:
    for number in range(52):
        shop.send("shop.checkout", number, queue="paged", countdown=7200)
    page.goto(f"{shop.address}/scheduled")
    expect(page.locator("tbody tr")).to_have_count(50)
    page.get_by_role("link", name=re.compile("^Next")).click()
    expect(page.get_by_role("link", name="First")).to_be_visible()  # of the second page
    assert 0 < page.locator("tbody tr").count() < 50
    page.get_by_role("link", name="First").click()
    expect(page.locator("tbody tr")).to_have_count(50)
    shop.app.broker.complete(shop.app.broker.operations().purge("paged"))  # other lists are to fit on a page


def test_selected_tasks_are_acted_on_by_the_keyboard(shop: Shop, page: Page) -> None:
    first, second = shop.send("shop.charge_card", 1, "keyboard"), shop.send("shop.charge_card", 2, "keyboard")
    shop.wait(first, "ended")
    shop.wait(second, "ended")
    page.goto(f"{shop.address}/tasks?in=failed&q=keyboard")
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.get_by_role("button", name="Retry selected")).to_be_hidden()
    for key in ("j", "x", "j", "x"):
        page.keyboard.press(key)
    expect(page.locator("input[data-select]:checked")).to_have_count(2)
    page.get_by_role("button", name="Retry selected").click()
    expect(page.get_by_role("status").filter(has_text="2 tasks were sent again.")).to_be_visible()
    assert "q=keyboard" in page.url


def test_a_selection_stays_while_the_list_is_fetched_again(shop: Shop, page: Page) -> None:
    shop.wait(shop.send("shop.charge_card", 1, "stays"), "ended")
    page.goto(f"{shop.address}/tasks?in=failed&q=stays")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.locator("input[data-select]").check()
    shop.wait(shop.send("shop.charge_card", 2, "stays"), "ended")
    expect(page.locator("tbody tr")).to_have_count(2)  # without a reload
    expect(page.locator("input[data-select]:checked")).to_have_count(1)
    expect(page.get_by_role("button", name="Retry selected")).to_be_visible()


def test_all_that_match_are_acted_on_after_a_count(shop: Shop, page: Page) -> None:
    for number in range(3):
        shop.send("media.resize", f"bulk-{number}", queue="bulk")
    page.goto(f"{shop.address}/tasks?in=waiting&q=queue:bulk")
    page.get_by_role("link", name="Revoke all…").click()
    expect(page.get_by_role("searchbox")).to_have_value("queue:bulk")
    page.get_by_role("button", name="Revoke 3", exact=True).click()
    expect(page.get_by_text("Done", exact=True).first).to_be_visible()


# --- The page of a task -------------------------------------------------------------------------------


def test_a_failed_task_shows_its_life_its_error_and_its_arguments_and_is_retried(shop: Shop, page: Page) -> None:
    id = shop.send("shop.charge_card", 12345678901234567890, "no money")
    shop.wait(id, "ended")
    page.goto(f"{shop.address}/tasks/{id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("shop.charge_card")
    life = page.get_by_role("img", name=re.compile("^The life of the task: .*Attempt 1 ran for .*: FAILURE"))
    expect(life).to_be_visible()
    expect(page.get_by_text("ValueError no money")).to_be_visible()
    expect(page.get_by_text("raise ValueError(why)")).to_be_visible()
    expect(page.get_by_text("12345678901234567890", exact=True)).to_be_visible()  # no digit is lost
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status").filter(has_text="It was sent again")).to_be_visible()
    expect(page.get_by_role("table").get_by_role("rowheader")).to_have_count(2)  # both attempts, live


def test_a_task_that_does_not_run_is_explained_and_can_be_revoked(shop: Shop, page: Page) -> None:
    id = shop.send("media.resize", "dog.png", queue="media")
    page.goto(f"{shop.address}/tasks/{id}")
    why = page.get_by_role("region", name="Why it is not running")
    expect(why).to_contain_text("The one worker that runs does not receive from the queue 'media'.")
    expect(why).to_contain_text("celeriac -A shop control add-consumer media")
    page.get_by_role("button", name="Revoke…").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke", exact=True).click()
    expect(why).to_contain_text("It was revoked: it ends as REVOKED as soon as a worker receives it.")


def test_a_scheduled_task_is_run_now_and_the_page_follows(shop: Shop, page: Page) -> None:
    id = shop.send("shop.checkout", 5, countdown=3600)
    page.goto(f"{shop.address}/tasks/{id}")
    expect(page.get_by_role("region", name="Why it is not running")).to_contain_text("It is due in 59 min")
    page.get_by_role("button", name="Run now").click()
    expect(page.locator(".figure .state")).to_have_text("Success")
    expect(page.get_by_role("region", name="Result")).to_contain_text("5")


def test_a_task_that_runs_is_terminated(shop: Shop, page: Page) -> None:
    id = shop.send("reports.build", "for-ever", queue="reports")
    shop.wait(id, "running")
    page.goto(f"{shop.address}/tasks/{id}")
    expect(page.locator(".figure .state")).to_have_text("Running")
    page.get_by_role("button", name="Terminate…").click()
    page.get_by_role("dialog").get_by_role("button", name="Terminate", exact=True).click()
    expect(page.locator(".figure .state")).to_have_text("Revoked")


def test_a_dead_letter_says_why_and_is_deleted(shop: Shop, page: Page) -> None:
    id = shop.send("shop.reject")
    shop.wait(id, "dead")
    page.goto(f"{shop.address}/tasks/{id}")
    why = page.get_by_role("region", name="Why it is a dead letter")
    expect(why).to_contain_text("Why: the warehouse does not know this article.")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="It was deleted.")).to_be_visible()


def test_an_unknown_task_says_what_may_have_happened(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.address}/tasks/order-17")
    expect(page.get_by_role("heading", level=1)).to_have_text("Unknown task")
    expect(page.get_by_role("region", name="Why it is not running")).to_contain_text("Celeriac has not made this id")


def test_secrets_are_masked_by_the_names_of_parameters(shop: Shop, page: Page) -> None:
    shop.app.task(lambda order, api_key="": None, name="shop.pay")
    id = shop.send("mail.send_receipt", {"password": "hush-hush", "n": 1}, queue="media")
    page.goto(f"{shop.address}/tasks/{id}")
    expect(page.get_by_role("region", name="Arguments")).to_contain_text('"password": "***"')
    assert "hush-hush" not in page.content()
    page.goto(f"{shop.address}/tasks?in=waiting")
    assert "hush-hush" not in page.content()
    id = shop.send("shop.log_in", "ann", "hush-hush")  # secret by the name of a parameter
    shop.wait(id, "dead")
    for path in ("/dead", f"/tasks/{id}"):
        page.goto(f"{shop.address}{path}")
        expect(page.locator("main")).to_contain_text("***")
        assert "hush-hush" not in page.content()


def test_a_task_that_fails_comes_to_an_open_list(shop: Shop, page: Page) -> None:
    page.goto(f"{shop.address}/tasks?in=failed&q=comes-by-itself")
    expect(page.get_by_text("Nothing matches")).to_be_visible()
    expect(page.locator("#pulse.live")).to_be_visible()
    shop.send("shop.charge_card", 1, "comes-by-itself")
    expect(page.get_by_role("row").filter(has_text="comes-by-itself")).to_be_visible()


def test_a_paused_queue_is_resumed_where_it_is_the_reason(shop: Shop, page: Page) -> None:
    shop.app.broker.complete(Inspector(shop.app).pause(["mail"]))
    id = shop.send("mail.send_receipt", 3, queue="mail")
    page.goto(f"{shop.address}/tasks/{id}")
    page.get_by_role("button", name="Resume the queue").click()
    expect(page.locator(".figure .state")).to_have_text("Success")


def test_who_may_only_look_sees_no_buttons_and_no_traceback(shop: Shop, browser: Browser, tmp_path: Path) -> None:
    id = shop.send("shop.charge_card", 1, "for viewers")
    shop.wait(id, "ended")
    guarded = Served(tmp_path, broker_url=f"sqlite:///{shop.served.folder}/celeriac.db")
    try:
        guarded.run("web", "token", "add", "ann", "--scope", "admin")
        token = guarded.run("web", "token", "add", "vic", "--scope", "viewer").split()[-1]
        address = guarded.web()[1]
        with opened(browser) as watched:
            page = watched.page
            page.goto(f"{address}/tasks/{id}")
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("heading", level=1)).to_have_text("shop.charge_card")
            expect(page.get_by_text("The traceback needs the scope results:traceback.")).to_be_visible()
            assert page.locator("main form").count() == 0
            assert "raise ValueError" not in page.content()
            page.goto(f"{address}/tasks?in=failed")
            assert page.locator("main [data-select]").count() == 0
            expect(page.get_by_role("link", name="Retry all…")).to_be_hidden()
    finally:
        guarded.end()


def test_all_of_it_works_without_a_script(shop: Shop, browser: Browser) -> None:
    id = shop.send("shop.checkout", 6, countdown=3600)
    with opened(browser, java_script_enabled=False) as watched:
        page = watched.page
        page.goto(f"{shop.address}/tasks?in=scheduled&q=id:{id}")
        page.get_by_role("checkbox", name=re.compile(f"Select .* {id}")).check()
        page.get_by_role("button", name="Run now selected").click()
        expect(page.get_by_text("1 task was made ready.")).to_be_visible()
        page.goto(f"{shop.address}/tasks/{id}")
        expect(page.get_by_role("heading", level=1)).to_have_text("shop.checkout")
