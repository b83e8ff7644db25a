"""Spans as tests read them: exported to a file, one JSON object on each line, from any process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from celeriac import Celeriac
from celeriac.otel.spans import AppSpans

__all__ = ["FileExporter", "Found", "named", "read", "traced"]


class Found:
    """An exported span."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.name: str = document["name"]
        self.kind: str = document["kind"]
        self.trace: str = document["trace"]
        self.id: str = document["id"]
        self.parent: str | None = document["parent"]
        self.attributes: dict[str, Any] = document["attributes"]
        self.at_start: dict[str, Any] = document["at_start"]
        self.links: list[str] = document["links"]
        self.events: list[dict[str, Any]] = document["events"]
        self.status: str = document["status"]
        self.pid: int = document["pid"]

    def __repr__(self) -> str:
        return f"<{self.name} {self.id} of {self.parent}>"


class FileExporter(SpanExporter):
    """Appends spans to a file."""

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        lines = "".join(json.dumps(_document(span)) + "\n" for span in spans)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, lines.encode())
        os.close(file)
        return SpanExportResult.SUCCESS


def _document(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{context.trace_id:032x}",
        "id": f"{context.span_id:016x}",
        "parent": f"{span.parent.span_id:016x}" if span.parent is not None else None,
        "attributes": dict(span.attributes or {}),
        "at_start": dict(getattr(span, "at_start", {})),
        "links": [f"{link.context.span_id:016x}" for link in span.links],
        "events": [{"name": event.name, **(event.attributes or {})} for event in span.events],
        "status": span.status.status_code.name,
        "pid": os.getpid(),
    }


def traced(app: Celeriac, path: str | Path) -> TracerProvider:
    """Let an app in this process make spans, without the provider of the whole process, which cannot be set twice."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(FileExporter(path)))
    app.tracing._spans = AppSpans(app, provider)
    return provider


def read(path: str | Path) -> list[Found]:
    """Return the spans in a file."""
    if not os.path.exists(path):
        return []
    return [Found(json.loads(line)) for line in Path(path).read_text().splitlines()]


def named(spans: Sequence[Found], name: str | Callable[[str], bool]) -> list[Found]:
    """Return the spans of a name."""
    return [span for span in spans if (span.name == name if isinstance(name, str) else name(span.name))]
