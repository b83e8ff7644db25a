"""The web application: it sends tasks, and shows how far they are."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from jobs import app as jobs
from jobs import make_report

from celeriac.errors import BrokerUnavailable

PAGE = Path(__file__).with_name("page.html")


@asynccontextmanager
async def lifespan(web: FastAPI) -> AsyncIterator[None]:
    """Close the connections when the server stops. They are opened on first use."""
    yield
    jobs.close()


app = FastAPI(lifespan=lifespan)


@app.exception_handler(BrokerUnavailable)
async def unavailable(request: Request, error: BrokerUnavailable) -> JSONResponse:
    """Answer when the broker is down."""
    return JSONResponse({"detail": "Please try again in a minute."}, status_code=503)


@app.get("/")
async def page() -> FileResponse:
    """Return the page."""
    return FileResponse(PAGE)


@app.post("/reports", status_code=202)
async def start(pages: int = 20) -> dict[str, str]:
    """Send a task."""
    result = await make_report.adelay(pages)
    return {"id": result.id}


@app.get("/reports/{id}")
async def status(id: str) -> dict[str, Any]:
    """Tell how far a task is."""
    return await jobs.AsyncResult(id).ato_dict()


@app.get("/reports/{id}/events")
async def events(id: str) -> StreamingResponse:
    """Follow a task to its end, by server-sent events."""

    async def stream() -> AsyncIterator[str]:
        with suppress(BrokerUnavailable):  # the stream ends, and the browser opens it again
            async for step in jobs.AsyncResult(id).aprogress():
                yield f"data: {json.dumps(step)}\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@app.delete("/reports/{id}", status_code=202)
async def cancel(id: str) -> dict[str, str]:
    """Cancel a task, even if it is running."""
    await jobs.AsyncResult(id).arevoke(terminate=True)
    return {"id": id}
