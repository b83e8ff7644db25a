"""Chromium for the tests of the dashboard; and pictures of its pages, to be looked at:

    python -m tests.dashboard.browsing FOLDER OUT /queues /workers …

serves the app `shop` of a folder (`seeding.SHOP`, seeded), and writes a picture of each page, in both themes and two
widths, into OUT. `--rows N` seeds the folder first, `--hostile` with hostile strings; `--worker` starts a worker.

    python -m tests.dashboard.browsing --readme      (`make picture`)

makes the picture of the overview with which the README opens, in both themes, in `docs/assets`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

from celeriac import Celeriac
from tests.dashboard.seeding import SHOP, seed
from tests.patience import PATIENCE, wait_for
from tests.server_process import missing
from tests.web.served import Served

__all__ = ["THEMES", "WIDTHS", "Watched", "chromium", "opened", "seeded", "shoot"]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The first draws no windows, and so needs a fifth less time than the others. Debian has it as a package."""
WIDTHS = (1280, 390)
THEMES = ("light", "dark")
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "assets"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser. Without one, the test is skipped."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing("no Chromium: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        expect.set_options(timeout=PATIENCE * 1000)
        yield browser
        browser.close()


class Watched:
    """A page, and what went wrong on it: errors of scripts, of the console, of the Content-Security-Policy."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        page.on("dialog", self._dialog)

    def _dialog(self, dialog: Dialog) -> None:
        self.faults.append(f"a dialog: {dialog.message}")
        dialog.dismiss()


@contextmanager
def opened(browser: Browser, **options: Any) -> Iterator[Watched]:
    """Open a page. It may have no fault when it is closed."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    try:
        watched = Watched(context.new_page())
        yield watched
        assert watched.faults == [], watched.faults
    finally:
        context.close()


def seeded(folder: Path, *, queues: Sequence[str] = (), **options: Any) -> Celeriac:
    """Make an app in a folder, with more queues than others, and fill it: see `seed`.

    Return it as one that can send its tasks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    more = "".join(f', "{queue}"' for queue in queues)
    (folder / "shop.py").write_text(SHOP.replace('"media"]', f'"media"{more}]'), encoding="utf-8")
    app = Celeriac("shop", broker_url=f"sqlite:///{folder}/celeriac.db", environ={},
                   task_queues=["mail", "reports", "media", *queues])  # fmt: skip
    if options.get("rows", 1):
        seed(app, **options)
    return app


def shoot(browser: Browser, address: str, path: str, out: Path, name: str | None = None) -> None:
    """Take pictures of a page, in both themes and widths."""
    out.mkdir(parents=True, exist_ok=True)
    name = name or re.sub(r"\W+", "-", path).strip("-") or "overview"
    for theme in THEMES:
        for width in WIDTHS:
            with opened(browser, color_scheme=theme, viewport={"width": width, "height": 900}) as watched:
                watched.page.goto(address + path)
                if watched.page.locator("body[data-live]").count():
                    expect(watched.page.locator("#pulse")).to_have_text("Live")
                watched.page.screenshot(path=out / f"{name}-{theme}-{width}.png", full_page=True)


def readme() -> None:
    """Take the picture of the README: a shop in the evening, which loses some payments."""
    with tempfile.TemporaryDirectory() as folder:
        app = seeded(Path(folder), rows=240, schedules=4, workers=0)
        served = Served(Path(folder))
        try:
            operations = app.broker.operations()
            for one in app.broker.complete(operations.queues()):
                app.broker.complete(operations.purge(one.queue))  # what was seeded is not to be run
            served.worker("-Q", "default,mail,media", "-c", "6", "-n", "shop@web-1")
            address = served.web()[1]
            for number in range(9):
                app.send_task("media.resize", (f"photo-{number}.png",), queue="media")
            for number in range(38):
                app.send_task("reports.build", (f"invoices of shop {number}",), queue="reports")
            for number in range(120):
                app.send_task("mail.send_receipt", (1200 + number,), queue="mail", countdown=3600)
            failed = app.send_task("shop.charge_card", (1204, "insufficient funds"))
            wait_for(lambda: bool(app.backend.fetch([failed.id])), "a failure")
            with chromium() as browser:
                for theme in THEMES:
                    with opened(browser, color_scheme=theme, viewport={"width": 1280, "height": 930}) as watched:
                        watched.page.goto(address)
                        expect(watched.page.get_by_role("list", name="Troubles")).to_contain_text("insufficient funds")
                        expect(watched.page.locator("#pulse")).to_have_text("Live")
                        watched.page.screenshot(path=PICTURE / f"overview-{theme}.png")
        finally:
            app.close()
            served.end()


def main() -> None:
    """Take pictures."""
    if sys.argv[1:] == ["--readme"]:
        return readme()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("paths", nargs="*", default=["/"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--hostile", action="store_true")
    parser.add_argument("--worker", action="store_true")
    given = parser.parse_args()
    if given.rows is not None:
        shutil.rmtree(given.folder, ignore_errors=True)
        seeded(given.folder, rows=given.rows, hostile=given.hostile)
    served = Served(given.folder)
    try:
        if given.worker:
            served.worker("-Q", "default,mail,reports,media", "-c", "8", "-n", "shop@box")
            app = seeded(given.folder, rows=0)
            for number in range(5):
                app.send_task("reports.build", (f"never {number}",), queue="reports", priority=9, soft_time_limit=1)
            for number in range(7):
                app.send_task("media.resize", (f"never {number}",), queue="media", priority=9)
            app.close()
        address = served.web()[1]
        with chromium() as browser:
            for path in given.paths:
                shoot(browser, address, path, given.out)
    finally:
        served.end()


if __name__ == "__main__":
    main()
