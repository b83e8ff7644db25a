"""The example of a page that follows a task, in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from celeriac import Celeriac
from tests.patience import PATIENCE, wait_for
from tests.ports import free_port
from tests.test_web_examples import site
from tests.web.served import Served

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "status_page"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def page() -> Iterator[Page]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        why = "no Chromium: apt-get install chromium"
        if os.environ.get("CELERIAC_TEST_REQUIRE") == "all":
            pytest.fail(why)
        pytest.skip(why)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        made = browser.new_page()
        made.set_default_timeout(PATIENCE * 1000)
        yield made
        browser.close()


def listens(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


class Example(Served):
    """A copy of the example, with its worker, its API, and the server of its page."""

    def __init__(self, folder: Path) -> None:
        shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True)
        port = free_port()
        self.pages = f"http://127.0.0.1:{port}"
        (folder / "shop.py").write_text("from jobs import app\n", encoding="utf-8")
        super().__init__(folder, web_origins=self.pages)
        self.processes.append(subprocess.Popen(
            [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], cwd=folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ))  # fmt: skip
        wait_for(lambda: listens(port), "the server of the page")

    def address(self, result: Any) -> str:
        return f"{self.pages}/#{result.status_url()}"


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Example]:
    made = Example(tmp_path / "example")
    try:
        yield made
    finally:
        made.end()


def test_the_page_shows_how_far_the_task_is_and_what_it_returns(example: Example, page: Page) -> None:
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    example.worker()
    process, address = example.web()
    app = Celeriac("jobs", broker_url=f"sqlite:///{example.folder}/celeriac.db", web_url=address, environ={},
                   web_secret=example.environment["CELERIAC_WEB_SECRET"])  # fmt: skip
    result = app.send_task("jobs.report", (30,))
    page.goto(example.address(result))
    text = page.get_by_role("status")
    expect(text).to_contain_text("of 30 pages", timeout=PATIENCE * 1000)
    expect(text).to_have_text("Done: a report of 30 pages", timeout=PATIENCE * 1000)
    assert page.locator("progress").evaluate("bar => bar.value") == 1
    assert faults == []
    page.goto("about:blank")
    page.goto(example.address(result)[:-1])
    expect(text).to_contain_text("incomplete, or was changed", timeout=PATIENCE * 1000)
    process.kill()
    process.wait()
    page.goto("about:blank")
    page.goto(example.address(result))
    expect(text).to_contain_text("cannot be reached", timeout=PATIENCE * 1000)
    app.close()


def test_a_page_of_another_site_cannot_read_it(example: Example, page: Page) -> None:
    example.environment["CELERIAC_WEB_ORIGINS"] = "https://another.example"
    _, address = example.web()
    app = Celeriac("jobs", broker_url=f"sqlite:///{example.folder}/celeriac.db", web_url=address, environ={},
                   web_secret=example.environment["CELERIAC_WEB_SECRET"])  # fmt: skip
    page.goto(example.address(app.AsyncResult("any")))
    expect(page.get_by_role("status")).to_contain_text("cannot be reached", timeout=PATIENCE * 1000)
    app.close()


def test_the_pages_of_the_django_shop_show_the_packing_its_result_and_a_schedule(page: Page, tmp_path: Path) -> None:
    with site("django_shop", tmp_path, {"DJANGO_SUPERUSER_PASSWORD": "secret"}) as found:
        superuser = ("createsuperuser", "--noinput", "--username", "ada", "--email", "ada@example.org")
        for command in (("makemigrations", "orders"), ("migrate", "--verbosity", "0"), superuser):
            subprocess.run([sys.executable, "manage.py", *command], cwd=found.folder, env=found.environment, check=True,
                           capture_output=True)  # fmt: skip
        found.worker("shop")
        with found.client("uvicorn", "shop.asgi:application", "--port", "0") as client:
            page.goto(str(client.base_url))
            page.get_by_label("Pieces").fill("30")
            page.get_by_text("Buy").click()
            expect(page.get_by_role("status")).to_have_text(re.compile(r"\d+ of 30 pieces"), timeout=PATIENCE * 1000)
            expect(page.get_by_role("status")).to_have_text("30 pieces for Ada are packed", timeout=PATIENCE * 1000)
            assert page.locator("progress").evaluate("bar => bar.value") == 1
            use_the_admin(page, f"{str(client.base_url).rstrip('/')}/admin/")


def use_the_admin(page: Page, address: str) -> None:
    """Look at the result, add a schedule after a mistake in it, and pause it."""
    page.set_default_timeout(PATIENCE * 1000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("response", lambda answer: faults.append(answer.url) if answer.status >= 400 else None)
    page.goto(address)
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("secret")
    page.get_by_text("Log in").last.click()
    page.get_by_role("link", name="Task results").first.click()
    page.get_by_role("link", name="orders.tasks.pack", exact=True).first.click()
    page.get_by_text('"30 pieces for Ada are packed"').wait_for()
    page.goto(f"{address}celeriac_db/periodictask/add/")
    page.get_by_label("Name:", exact=True).fill("Ada's pieces")
    page.get_by_label("Task:").fill("orders.tasks.pieces_of")
    page.get_by_label("Arguments:", exact=True).fill('["Ada"]')
    expect(page.get_by_label("Hour:")).to_be_hidden()
    page.get_by_label("When:").select_option("Crontab")
    expect(page.get_by_label("Every:")).to_be_hidden()
    page.get_by_label("Hour:").fill("25")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("The hour 25 is not between 0 and 23.").wait_for()
    page.get_by_label("Hour:").fill("7")
    page.get_by_role("button", name="Save", exact=True).click()
    row = page.get_by_role("row").filter(has_text="Ada's pieces")
    expect(row).to_contain_text("at 07:00 every day, Europe/Berlin")
    expect(row).to_contain_text("active")
    page.get_by_role("link", name="Ada's pieces").last.click()
    page.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused")
    assert faults == []
