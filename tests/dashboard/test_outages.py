"""What open pages say when a server is away, and that they recover by themselves."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect

from celeriac import Celeriac
from tests.dashboard.browsing import Watched, seeded
from tests.dashboard.seeding import SHOP
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.web.served import Served


def test_a_page_says_that_the_web_process_is_gone_and_goes_on_with_the_next(tmp_path: Path, watched: Watched) -> None:
    app = seeded(tmp_path, rows=0)
    served, page = Served(tmp_path), watched.page
    try:
        port = str(free_port())  # the next process listens on it, too
        process, address = served.web("--port", port)
        page.goto(f"{address}/queues/default")
        expect(page.locator("#pulse")).to_have_text("Live")
        process.kill()
        process.wait()
        expect(page.locator("#banner")).to_contain_text("The server cannot be reached")
        expect(page.locator("#pulse")).to_have_text("Not live")
        app.send_task("shop.checkout", (1,))
        served.start("web", "--port", port, ready="Ctrl-C stops it")
        expect(page.locator("#pulse")).to_have_text("Live")
        expect(page.locator("#banner")).to_be_hidden()
        waits = page.get_by_role("region", name="What waits")
        expect(waits.get_by_role("link", name="shop.checkout")).to_be_visible()
        page.get_by_role("button", name="Pause").click()  # the forms are those of the new process
        expect(page.get_by_role("button", name="Resume")).to_be_visible()
        watched.faults.clear()  # Chromium reports refused connections in the console
    finally:
        served.end()
        app.close()


def test_a_page_says_that_the_broker_is_away_and_keeps_what_it_showed(tmp_path: Path, watched: Watched) -> None:
    redis, page = RedisServer(tmp_path), watched.page
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    served = Served(tmp_path, broker_url=redis.url, result_backend=redis.url)
    app = Celeriac("shop", broker_url=redis.url, environ={})
    try:
        app.send_task("shop.checkout", (1,))
        page.goto(served.web()[1])
        row = page.get_by_role("region", name="Queues").get_by_role("row", name=re.compile("^default no worker 1 "))
        expect(row).to_be_visible()
        redis.kill()
        expect(page.locator("main")).to_contain_text("The broker cannot be reached")
        expect(row).to_be_visible()
        redis.start()
        app.send_task("shop.checkout", (2,))
        expect(page.locator("main")).not_to_contain_text("The broker cannot be reached")
        expect(row).to_be_visible()
        watched.faults.clear()
    finally:
        served.end()
        app.close()
        redis.end()
