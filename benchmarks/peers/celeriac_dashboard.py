"""Celeriac's dashboard, with a SQLite file behind it that holds much data."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from benchmarks.peers.base import FOLDER
from celeriac import Celeriac
from celeriac.dashboard import dashboard
from celeriac.web.serving import serve
from tests.dashboard.seeding import seed

LISTS = ("/", "/?range=7d", "/tasks", "/tasks?in=failed", "/tasks?in=running", "/tasks?in=waiting",
         "/tasks?in=scheduled", "/queues", "/queues/default", "/workers", "/failures", "/dead", "/schedules",
         "/workflows", "/audit", "/tasks?in=waiting&cursor=150000/default",
         "/tasks?in=scheduled&cursor=150000/")  # fmt: skip
ENDED = ("task:nothing", "task:nothing.*", '"no such words"', "header.tenant:nobody", "queue:nothing", "id:nothing",
         "signature:nothing", "task:reports.build state:failure", "state:revoked")  # fmt: skip
WAITING = ("task:nothing", "header.tenant:nobody", "args.order:77")
ROW = re.compile(r'data-row="([0-9a-f-]{36})[ "]')

app = Celeriac("shop", broker_url=f"sqlite:///{FOLDER / 'celeriac.db'}", environ={})


class CeleriacDashboard:
    """With default settings."""

    title = "Celeriac's dashboard"
    module = "celeriac"
    packages = ("celeriac", "starlette", "uvicorn", "jinja2")
    settings = "`celeriac web` as it is, without tokens, on SQLite; three workers that do not answer"
    pace = 0

    def seed(self, rows: int) -> None:
        seed(app, rows=rows, hours=7 * 24)

    def change(self) -> None:
        """Change what pages show."""
        app.send_task("shop.checkout", args=(1,))

    def serve(self, port: int) -> None:
        serve(dashboard(app), "127.0.0.1", port, lambda address: None)

    def paths(self, fetch: Callable[[str], str]) -> list[str]:
        """Return the addresses of pages: lists, searches that match nothing, and a task of each kind."""
        found = [*LISTS, *(f"/tasks?q={quote(text)}" for text in ENDED)]
        found += [f"/tasks?in={tab}&q={quote(text)}" for tab in ("waiting", "scheduled") for text in WAITING]
        for tab in ("ended", "failed", "waiting", "scheduled"):
            row = ROW.search(fetch(f"/tasks?in={tab}"))
            found += [f"/tasks/{row[1]}"] if row is not None else []
        signature = re.search(r"/failures/[0-9a-f]{16}", fetch("/failures"))
        return [*found, "/tasks/nothing", *([signature[0]] if signature is not None else [])]


PEER = CeleriacDashboard()
