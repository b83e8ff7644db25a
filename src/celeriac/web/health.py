"""Probes for load balancers and Kubernetes: is the process alive, and can it reach its servers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from starlette.responses import Response

from celeriac.errors import NotSupported
from celeriac.web.endpoints import Call, Endpoints, json_answer
from celeriac.web.site import Site

__all__ = ["ENDPOINTS"]

ENDPOINTS = Endpoints()
WITHIN: Final = 1.0  # seconds
NOBODY: Final = "readyz"  # an id that no task has


@ENDPOINTS.add("GET", "/livez", None, {200: dict[str, str]}, under="")
async def _live(site: Site, call: Call) -> Response:
    """Tell that the server answers."""
    return json_answer({"status": "ok"})


@ENDPOINTS.add("GET", "/readyz", None, {200: dict[str, str], 503: dict[str, str]}, under="")
async def _ready(site: Site, call: Call) -> Response:
    """Tell whether broker and result backend answer within a second."""
    asked: dict[str, Coroutine[Any, Any, Any]] = {"broker": site.inspector.workers()}
    if not site.app.sends_outcomes:
        asked["backend"] = site.app.backend.afetch([NOBODY])
    found = await asyncio.gather(*(_answers(site, question) for question in asked.values()))
    parts = dict(zip(asked, found, strict=True))
    ready = set(parts.values()) == {"ok"}
    return json_answer({"status": "ok" if ready else "unavailable", **parts}, 200 if ready else 503)


async def _answers(site: Site, question: Coroutine[Any, Any, Any]) -> str:
    try:
        async with asyncio.timeout(WITHIN):
            await site.read(question)
    except TimeoutError:
        return "no answer"
    except NotSupported:
        return "ok"
    except Exception:  # noqa: BLE001 - whatever is wrong, it is not ready
        return "unavailable"
    return "ok"
