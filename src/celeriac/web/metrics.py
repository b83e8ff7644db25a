"""`/metrics`, for Prometheus: the whole system, or the same by celery-exporter's names."""

from __future__ import annotations

import importlib

from starlette.responses import Response

from celeriac.web.endpoints import Call, Endpoints
from celeriac.web.shapes import MetricsQuery
from celeriac.web.site import Site

__all__ = ["ENDPOINTS"]

ENDPOINTS = Endpoints()


@ENDPOINTS.add("GET", "/metrics", "metrics:read", {200: "text/plain"}, query=MetricsQuery, under="",
               problems=("misconfigured",))  # fmt: skip
async def _metrics(site: Site, call: Call) -> Response:
    """Show metrics in Prometheus' text format; with names=celery, by the names of celery-exporter."""
    exposition = importlib.import_module("celeriac.metrics.exposition")  # it needs an extra, and says so
    accept = call.request.headers.get("accept", "")
    text, kind = await site.collector.text(call.query.names, accept, exposition.text_of)
    return Response(text, headers={"Cache-Control": "no-store", "Content-Type": kind})
