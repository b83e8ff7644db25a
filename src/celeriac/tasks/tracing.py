"""`app.tracing`: whether calls and attempts make spans, and the ids of the current span for the log.

`app.publish` asks it for each call, `Executor` for each attempt, so the answer "no" costs next to nothing, and imports
no OpenTelemetry: without the package it is one attribute. `celeriac/otel/spans.py`, which makes the spans, is imported
once a tracer provider is set in this process. Until then no code of OpenTelemetry is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Protocol

from celeriac.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.config.settings import Settings
    from celeriac.model.message import Message
    from celeriac.model.outcome import Outcome

__all__ = [
    "CONTEXT",
    "FLUSH_SECONDS",
    "LINKED",
    "LINKED_FROM",
    "Attempt",
    "Sending",
    "Spans",
    "Tracing",
    "trace_ids",
    "without_context",
]

log = logging.getLogger("celeriac.otel")

API: Final = "opentelemetry.trace"
METRICS: Final = "opentelemetry.metrics"
FLUSH_SECONDS: Final = 2.0

LINKED: Final = "celeriac-link"
"""A header: the attempt is linked to the span of its send, and is no child of it."""

CONTEXT: Final = frozenset({"traceparent", "tracestate", "baggage", LINKED})
"""The headers that carry the context of a send."""

LINKED_FROM: Final = 100
"""Members of larger groups are linked: a trace with thousands of spans is of no use."""

PROVIDERS: Final = {
    API: "get_tracer_provider",
    METRICS: "get_meter_provider",
    "opentelemetry._logs": "get_logger_provider",
}
"""What returns the providers of a process, by the module that has it."""


class _App(Protocol):
    conf: Settings


class Sending(Protocol):
    """The span of a call, of many calls in one, or of a workflow."""

    @property
    def carrier(self) -> Mapping[str, str]:
        """The headers with its context."""


class Attempt(Protocol):
    """The span of an attempt."""

    def ended(self, outcome: Outcome) -> Outcome:
        """Write the outcome to the span, and the span's ids to the outcome; return the outcome."""


class Spans(Protocol):
    """Makes spans; see `celeriac/otel/spans.py`."""

    def batch(self, name: str, task: str | None, are_linked: bool) -> AbstractContextManager[Sending]:
        """Begin the span of what is sent in several steps; with `are_linked`, attempts are not its children."""

    def sending(self, messages: Sequence[Message], batch: Any) -> AbstractContextManager[Sequence[Message]]:
        """Begin the span of a send, unless they belong to a batch; return the messages with its context."""

    def processing(self, message: Message, worker: str, is_eager: bool) -> AbstractContextManager[Attempt]:
        """Begin the span of an attempt, which is the current one until it ends."""


NOT_TRACED: Final[AbstractContextManager[None]] = nullcontext()


class Tracing:
    """Whether an app makes spans in this process."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self.configuration_changed()

    def configuration_changed(self) -> None:
        """Drop what was derived from the configuration."""
        self._mode: str = self._app.conf.otel
        self.is_possible = self._mode == "on" or (self._mode == "auto" and _is_installed())
        """Whether there may be spans in this process, or in one that is forked from it."""
        self._spans: Spans | None = None
        self._is_loaded = False

    def spans(self) -> Spans | None:
        """Return what makes spans, or None: tracing is off, or no tracer provider is set in this process.

        Raises `ImproperlyConfigured` if `otel` is "on" and the package is missing.
        """
        if self._spans is not None:
            return self._spans
        api: Any = sys.modules.get(API)
        return None if api is None and self._mode != "on" else self._find(api)

    def _find(self, api: Any) -> Spans | None:
        if self._mode == "off":
            return None
        if self._mode == "on" and not self._is_loaded:
            api = _import()
            api.get_tracer_provider()  # makes the one that the environment names
            self._is_loaded = True
        # `get_tracer_provider` costs 2 µs while none is set, since it looks into the environment.
        if api is None or vars(api).get("_TRACER_PROVIDER", api) is None:
            return None
        provider = api.get_tracer_provider()
        if isinstance(provider, api.ProxyTracerProvider):
            return None
        made: Spans = importlib.import_module("celeriac.otel.spans").AppSpans(self._app, provider)
        self._spans = made
        return made

    def batch(self, name: str, task: str | None = None,
              are_linked: bool = False) -> AbstractContextManager[Sending | None]:  # fmt: skip
        """Begin the span of what is sent in several steps; None if there is none."""
        spans = self.spans()
        if spans is None or self._app.conf.task_always_eager:
            return NOT_TRACED
        return spans.batch(name, task, are_linked)

    def observe(self, loop: Any, counted: Callable[[], Any]) -> None:
        """Show what a worker has counted to the metrics of OpenTelemetry, if this process has imported these."""
        if self._mode != "off" and METRICS in sys.modules:
            importlib.import_module("celeriac.otel.metrics").observe(loop, counted)

    def warn_before_fork(self) -> None:
        """Warn of a provider that was made too early: children of the worker are forked from this process."""
        if self.spans() is not None and threading.active_count() > 1:
            log.warning("An OpenTelemetry provider was made in the process from which the children of this worker are "
                        "forked, and has started a thread in it. Threads do not survive a fork, and a fork beside one "
                        "can hang. Make the provider in a receiver of signals.worker_process_init: see the page "
                        "\"How to trace\".")  # fmt: skip

    def flush(self) -> None:
        """Let the providers of this process export what they hold, within `FLUSH_SECONDS`. The process ends then."""
        if self._mode == "off":
            return
        found = [getattr(sys.modules[name], function)() for name, function in PROVIDERS.items() if name in sys.modules]
        flushes = [provider.force_flush for provider in found if hasattr(provider, "force_flush")]
        if not flushes:
            return
        # In a thread: an exporter keeps to time-outs of its own, of 10 seconds and more.
        thread = threading.Thread(target=_call_each, args=(flushes,), name="celeriac-flush", daemon=True)
        thread.start()
        thread.join(FLUSH_SECONDS)
        if thread.is_alive():
            log.warning("Spans are lost: they could not be exported within %g s of the end of this process",
                        FLUSH_SECONDS)  # fmt: skip


@cache
def _is_installed() -> bool:
    return importlib.util.find_spec("opentelemetry") is not None


def _import() -> Any:
    try:
        return importlib.import_module(API)
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured("otel is 'on', but the package opentelemetry-api is not installed: "
                                   "pip install 'celeriac[otel]'.") from error  # fmt: skip


def _call_each(flushes: Sequence[Any]) -> None:
    for flush in flushes:
        try:
            flush(timeout_millis=int(FLUSH_SECONDS * 1000))
        except Exception:  # an exporter's; the others are flushed all the same
            log.exception("OpenTelemetry data could not be exported at the end of this process")


def trace_ids() -> tuple[str, str] | None:
    """Return the ids of the trace and of the span that is the current one; None without one."""
    api: Any = sys.modules.get(API)
    if api is None or not hasattr(api, "get_current_span"):  # nobody has imported it, or somebody is doing so
        return None
    found = api.get_current_span().get_span_context()
    return (f"{found.trace_id:032x}", f"{found.span_id:016x}") if found.is_valid else None


def without_context(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return headers of a message without the context of its send, for a message of another send."""
    return {name: value for name, value in headers.items() if name not in CONTEXT}
