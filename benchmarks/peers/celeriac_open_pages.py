"""Celeriac on the embedded SQLite file, with its dashboard before it."""

from __future__ import annotations

from benchmarks.peers.celeriac_sqlite import CeleriacSQLite, app
from celeriac.dashboard import dashboard
from celeriac.web.serving import serve


class CeleriacOpenPages(CeleriacSQLite):
    """With default settings. The worker does not import the dashboard."""

    packages = ("celeriac", "starlette", "uvicorn", "jinja2")
    settings = "`celeriac web` as it is, without tokens, on SQLite"

    def serve(self, port: int) -> None:
        serve(dashboard(app), "127.0.0.1", port, lambda address: None)

    def stayed(self) -> list[str]:
        """Return the addresses of pages that stay open."""
        return ["/", "/", "/", "/tasks", "/tasks?in=waiting", "/queues", "/queues/default", "/workers", "/failures",
                "/workflows"]  # fmt: skip


PEER = CeleriacOpenPages()
