"""The recipes for structlog, Sentry and loguru do in a real worker what docs/howto/logging.md says."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.logs.shop import Shop

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "logging.md"


def recipe(heading: str) -> str:
    """Return the code below a heading of the page."""
    found = re.search(rf"^## {heading}\n.*?^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def run(shop: Shop, code: str) -> dict[str, str]:
    """Run a plain task, a coroutine task and one that fails; return the ids by what each of them logs."""
    (shop.folder / "recipe.py").write_text(code)
    shop.open("-l", "info", setup="import recipe")
    (shop.folder / "go").touch()
    plain, coroutine, failed = shop.run("note", "tea"), shop.run("anote", "milk"), shop.run("fail", "cups")
    shop.stop()
    return {"plain tea": plain, "before milk": coroutine, "after milk": coroutine, "about to fail cups": failed}


def test_structlog_writes_each_line_once_as_json_with_its_task(shop: Shop) -> None:
    ids = run(shop, recipe("structlog"))
    told = [json.loads(line) for line in shop.text().splitlines() if line.startswith("{")]
    for message, id in ids.items():
        [line] = [line for line in told if line["event"] == message]
        assert (line["logger"], line["id"]) == ("shop.tasks", id)
    [failure] = [line for line in told if "failed: ValueError: cups" in line["event"]]
    assert (failure["logger"], failure["level"]) == ("celeriac.worker", "error")
    assert "raise ValueError(text)" in failure["exception"]
    assert len([line for line in told if line["event"].endswith("has stopped")]) == 1


def test_loguru_writes_each_line_once_with_its_task(shop: Shop) -> None:
    ids = run(shop, recipe("loguru"))
    for message, id in ids.items():
        [line] = shop.lines(f": {message}")
        assert re.search(rf" (INFO|WARNING) shop\.tasks shop\.\w+\[{id}\]: {message}$", line)
    [failure] = shop.lines("failed: ValueError: cups")
    assert " ERROR celeriac.worker -: shop.fail[" in failure
    assert len(shop.lines("raise ValueError(text)")) == len(shop.lines("has stopped")) == 1


class Sentry(BaseHTTPRequestHandler):
    """Takes what is sent to a server of Sentry."""

    events: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        _, *items = body.splitlines()
        for head, item in zip(items[::2], items[1::2], strict=False):
            if json.loads(head)["type"] == "event":
                self.events.append(json.loads(item))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def sentry() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server of Sentry: the address of a project, and the events that it was sent."""
    handler = type("Handler", (Sentry,), {"events": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://key@127.0.0.1:{server.server_port}/1", handler.events
        finally:
            server.shutdown()
            thread.join()


def test_sentry_is_told_of_a_failure_once_with_its_task(shop: Shop, sentry: tuple[str, list[dict[str, Any]]]) -> None:
    address, events = sentry
    code = recipe("Sentry")
    assert "https://…" in code
    ids = run(shop, code.replace("https://…", address))
    [event] = [event for event in events if event.get("exception")]
    assert (event["transaction"], event["tags"]["task_id"]) == ("shop.fail", ids["about to fail cups"])
    [error] = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("ValueError", "cups")
    assert len(shop.lines("about to fail cups")) == 1
