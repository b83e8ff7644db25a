"""The example of a page that follows a task, in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page, expect

from celeriac import Celeriac
from tests.dashboard.browsing import chromium
from tests.django.pythons import NEWEST, PYTHONS
from tests.patience import FOR_EVER, PATIENCE, wait_for
from tests.ports import free_port
from tests.test_web_examples import site
from tests.web.served import Served

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "status_page"
SOURCES = str(Path(__file__).parent.parent.parent / "src")


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium() as browser:
        made = browser.new_page()
        made.set_default_timeout(PATIENCE * 1000)
        yield made


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


PREPARE = """
from django.contrib.auth.models import User
from django.core.management import call_command
from stock.models import Product

call_command("makemigrations", "stock", "orders", verbosity=0)
call_command("migrate", verbosity=0)
User.objects.create_superuser("ada", "ada@example.org", "secret")
Product.objects.create(name="Tea", price="4.20", pieces=30)
"""
OLD, NEW = PYTHONS
if NEWEST.exists():  # of these pages, the admin alone depends on the version: tests/django has it on both
    OLD = pytest.param(*OLD.values, id=OLD.id, marks=[pytest.mark.at_length])


@pytest.mark.timeout(FOR_EVER)
@pytest.mark.parametrize("python", [OLD, NEW])
def test_the_pages_of_the_django_shop_show_the_packing_an_import_its_result_and_a_schedule(
    page: Page, tmp_path: Path, python: str
) -> None:
    with site("django_shop", tmp_path, {"PYTHONPATH": SOURCES}, python) as found:
        subprocess.run([python, "manage.py", "shell", "--verbosity", "0", "-c", PREPARE], cwd=found.folder,
                       env=found.environment, check=True, capture_output=True)  # fmt: skip
        found.worker("shop")
        with found.client("uvicorn", "shop.asgi:application", "--port", "0") as client:
            address = str(client.base_url).rstrip("/")
            page.goto(address)
            sent = buy(page, 30)
            status = page.get_by_role("status")
            expect(status).to_have_text(re.compile(r"\d+ of 30"), timeout=PATIENCE * 1000)
            expect(status).to_have_text("Order 1: 30 pieces are packed", timeout=PATIENCE * 1000)
            assert page.locator("progress").evaluate("bar => bar.value") == 1
            told = client.get(sent["status"]).json()
            assert told["value"] == "Order 1: 30 pieces are packed"
            assert client.get(f"/tasks/{told['id']}/status/").status_code == 401
            assert client.get("/celeriac/api/v1/queues").status_code == 401
            buy(page, 1)
            expect(status).to_have_text("There are not 1 pieces of Tea left.", timeout=PATIENCE * 1000)
            log_in(page, f"{address}/prices/")
            import_prices(page)
            use_the_admin(page, f"{address}/admin/")
        wait_for(lambda: "30 × Tea: 126.00\nTotal: 126.00" in (found.folder / "worker.log").read_text(), "the invoice")


def buy(page: Page, pieces: int) -> Any:
    """Order tea; return what the server answers."""
    page.get_by_label("Tea").fill(str(pieces))
    with page.expect_response(lambda answer: answer.request.method == "POST") as answer:
        page.get_by_role("button", name="Buy").click()
    return answer.value.json()


def log_in(page: Page, address: str) -> None:
    """Go to a page of the staff's."""
    page.goto(address)
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill("secret")
    page.get_by_text("Log in").last.click()


def prices(name: str, count: int) -> FilePayload:
    """Return a file with as many prices."""
    text = "\n".join(f"{name} {number},1.50" for number in range(count))
    return {"name": "prices.csv", "mimeType": "text/csv", "buffer": text.encode()}


def import_prices(page: Page) -> None:
    """Import a list of prices, and cancel a longer one while it runs."""
    status, button = page.get_by_role("status"), page.get_by_role("button", name="Import prices")
    page.get_by_label("Prices").set_input_files(prices("Cake", 30))
    button.click()
    expect(status).to_have_text("30 prices were imported", timeout=PATIENCE * 1000)
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    page.get_by_label("Prices").set_input_files(prices("Milk", 5_000))  # that takes minutes
    button.click()
    expect(status).to_have_text(re.compile(r"\d+ of 5000"), timeout=PATIENCE * 1000)
    page.get_by_role("button", name="Cancel").click()
    expect(status).to_have_text("The task was terminated.", timeout=PATIENCE * 1000)
    assert page.locator("progress").evaluate("bar => bar.value") == 0


def use_the_admin(page: Page, address: str) -> None:
    """Look at the result, add a schedule after a mistake in it, and pause it."""
    page.set_default_timeout(PATIENCE * 1000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("response", lambda answer: faults.append(answer.url) if answer.status >= 400 else None)
    page.goto(address)
    page.get_by_role("link", name="Task results").first.click()
    page.locator("#result_list").get_by_role("link", name="orders.tasks.pack", exact=True).first.click()
    page.get_by_text('"Order 1: 30 pieces are packed"').wait_for()
    page.goto(f"{address}celeriac_db/periodictask/add/")
    page.get_by_label("Name:", exact=True).fill("Unpaid orders")
    page.get_by_label("Task:").fill("orders.tasks.expire_unpaid")
    page.get_by_label("Arguments:", exact=True).fill("[48]")
    expect(page.get_by_label("Hour:")).to_be_hidden()
    page.get_by_label("When:").select_option("Crontab")
    expect(page.get_by_label("Every:")).to_be_hidden()
    page.get_by_label("Hour:").fill("25")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_text("The hour 25 is not between 0 and 23.").wait_for()
    page.get_by_label("Hour:").fill("7")
    page.get_by_role("button", name="Save", exact=True).click()
    row = page.get_by_role("row").filter(has_text="Unpaid orders")
    expect(row).to_contain_text("at 07:00 every day, Europe/Berlin")
    expect(row).to_contain_text("active")
    page.get_by_role("link", name="Unpaid orders").last.click()
    page.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused")
    assert faults == []
