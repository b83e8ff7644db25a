"""Spans of calls (`send shop.add`, PRODUCER) and of attempts (`process shop.add`, CONSUMER).

`app.publish` and `Executor` call `AppSpans`, by way of `tasks/tracing.py`. The context of a send travels in the headers
of its messages. Names and attributes are those of OpenTelemetry's conventions for messaging; no arguments and no
results are among them. A fault of a sampler, processor or propagator is logged, and the task runs without a span.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from msgspec.structs import replace
from opentelemetry import context as contexts
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanContext, SpanKind, Status, StatusCode

from celeriac import states
from celeriac.__about__ import VERSION
from celeriac.model.failure import Failure
from celeriac.model.message import Message
from celeriac.model.outcome import Outcome
from celeriac.tasks.protocols import App
from celeriac.tasks.tracing import CONTEXT, LINKED

__all__ = ["SCHEMA", "AppSpans", "attributes_of_server"]

log = logging.getLogger("celeriac.otel")

SCHEMA: Final = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the conventions that names and attributes follow."""

BOUNDARIES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)  # seconds


class AppSpans:
    """The spans of one app in one process. Implements `Spans`."""

    def __init__(self, app: App, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer("celeriac", VERSION, SCHEMA)
        self._parent: Literal["auto", "always", "never"] = app.conf.otel_parent  # type: ignore[assignment]
        self._common = {"messaging.system": "celeriac", **attributes_of_server(app.broker_url)}
        meter = metrics.get_meter("celeriac", VERSION, schema_url=SCHEMA)
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Messages that were sent."
        )
        self._duration = meter.create_histogram(
            "messaging.client.operation.duration", "s", "How long sending took.",
            explicit_bucket_boundaries_advisory=BOUNDARIES,
        )  # fmt: skip

    # --- Sending --------------------------------------------------------------------------------------

    @contextmanager
    def batch(self, name: str, task: str | None, are_linked: bool) -> Iterator[_Send]:
        """Begin the span of what is sent in several steps. Its messages are counted as they are sent."""
        attributes = self._attributes("send")
        if task is not None:
            attributes["celeriac.task"] = task
        send = self._begin(name, attributes, are_linked)
        try:
            yield send
        except BaseException as error:
            send.failed(error)
            raise
        finally:
            send.end()

    @contextmanager
    def sending(self, messages: Sequence[Message], batch: _Send | None) -> Iterator[Sequence[Message]]:
        """Yield the messages with the context of a new span, or of that of a batch."""
        send = batch if batch is not None else self._begin(*self._of(messages), are_linked=len(messages) > 1)
        keeps_links = batch is not None  # those that the planner of a workflow has set
        begun = time.perf_counter()
        token = contexts.attach(trace.set_span_in_context(send.span))
        error_type = None
        try:
            yield send.traced(messages, keeps_links)
        except BaseException as error:
            error_type = _name(type(error))
            if batch is None:
                send.failed(error)
            raise
        finally:
            contexts.detach(token)
            took = time.perf_counter() - begun
            _guarded(lambda: self._measure(messages, took, error_type))
            if batch is None:
                send.end()

    def _begin(self, name: str, attributes: dict[str, Any], are_linked: bool) -> _Send:
        span: Span = INVALID_SPAN
        try:
            span = self._tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=attributes)
        except Exception:
            log.exception("A send has no span, because starting it failed")
        return _Send(span, are_linked)

    def _of(self, messages: Sequence[Message]) -> tuple[str, dict[str, Any]]:
        """Return the name and the attributes of the span that sends these messages."""
        first, attributes = messages[0], self._attributes("send")
        tasks, queues = {message.task for message in messages}, {message.queue for message in messages}
        if len(tasks) == 1:
            attributes["celeriac.task"] = first.task
        if len(queues) == 1:
            attributes["messaging.destination.name"] = first.queue
        if len(messages) == 1:
            attributes |= _attributes_of(first)
        return f"send {first.task}" if len(tasks) == 1 else "send batch", attributes

    def _measure(self, messages: Sequence[Message], took: float, error_type: str | None) -> None:
        counts: dict[str, int] = {}
        for message in messages:
            counts[message.queue] = counts.get(message.queue, 0) + 1
        for queue, count in counts.items():
            attributes = {**self._attributes("send"), "messaging.destination.name": queue}
            if error_type is not None:
                attributes["error.type"] = error_type
            self._sent.add(count, attributes)
            if len(counts) == 1:
                self._duration.record(took, attributes)

    # --- Attempts -------------------------------------------------------------------------------------

    def processing(self, message: Message, worker: str, is_eager: bool) -> _Attempt:
        """Return the span of an attempt, which begins with the `with` block that it is given to."""
        return _Attempt(lambda: self._start(message, worker, is_eager))

    def _start(self, message: Message, worker: str, is_eager: bool) -> tuple[Span, Context | None]:
        """Start the span of an attempt; return it, and the context that it is started in."""
        attributes = self._attributes("process")
        attributes |= _attributes_of(message)
        attributes["celeriac.attempt"] = message.attempt
        kind, context, links = SpanKind.INTERNAL, None, list[Link]()
        if not is_eager:
            kind = SpanKind.CONSUMER
            attributes["messaging.client.id"] = worker
            context, links = self._context(message)
        span = self._tracer.start_span(
            f"process {message.task}", context, kind=kind, attributes=attributes, links=links
        )  # fmt: skip
        return span, context

    def _context(self, message: Message) -> tuple[Context, list[Link]]:
        """Return the context of an attempt, and its links: to the send, which is its parent where that makes sense."""
        carrier = {name: value for name, value in message.headers.items() if isinstance(value, str)}
        context = propagate.extract(carrier, Context())
        sent: SpanContext = trace.get_current_span(context).get_span_context()
        if not sent.is_valid:
            return context, []
        if self._parent == "never" or (self._parent == "auto" and not _is_direct(message)):
            context = trace.set_span_in_context(INVALID_SPAN, context)  # the baggage stays
        return context, [Link(sent)]

    def _attributes(self, operation: str) -> dict[str, Any]:
        return {**self._common, "messaging.operation.name": operation, "messaging.operation.type": operation}


class _Send:
    """The span of a send. Implements `Sending`."""

    def __init__(self, span: Span, are_linked: bool) -> None:
        self.span = span
        self.carrier: dict[str, str] = {}
        self._count = 0
        try:
            propagate.inject(self.carrier, trace.set_span_in_context(span))
        except Exception:
            log.exception("A send passes no context on, because the propagator failed")
            self.carrier = {}
        if are_linked and self.carrier:
            self.carrier[LINKED] = "1"

    def traced(self, messages: Sequence[Message], keeps_links: bool) -> Sequence[Message]:
        """Return messages with the context of this span, and count them."""
        self._count += len(messages)
        if self._count > 1:
            self.span.set_attribute("messaging.batch.message_count", self._count)
        if not self.carrier:  # it is not recorded, and the propagator passes nothing on
            return messages
        left = CONTEXT - {LINKED} if keeps_links else CONTEXT
        return [_with_context(message, self.carrier, left) for message in messages]

    def failed(self, error: BaseException) -> None:
        """Write to the span that the send has failed."""
        _guarded(lambda: self._write(error))

    def _write(self, error: BaseException) -> None:
        self.span.record_exception(error)
        self.span.set_attribute("error.type", _name(type(error)))
        self.span.set_status(Status(StatusCode.ERROR, str(error)))

    def end(self) -> None:
        """End the span."""
        _guarded(self.span.end)


class _Attempt:
    """The span of an attempt, in a `with` block. Implements `Attempt`."""

    __slots__ = ("_pid", "_span", "_start", "_token")

    def __init__(self, start: Callable[[], tuple[Span, Context | None]]) -> None:
        self._start = start
        self._span: Span = INVALID_SPAN
        self._token: Any = None
        self._pid = os.getpid()

    def __enter__(self) -> _Attempt:
        try:
            self._span, context = self._start()
            self._token = contexts.attach(trace.set_span_in_context(self._span, context))
        except Exception:
            log.exception("An attempt has no span, because starting it failed")
        return self

    def ended(self, outcome: Outcome) -> Outcome:
        """Write the outcome to the span, and the span's ids to the outcome; return the outcome."""
        found = self._span.get_span_context()
        if found.is_valid:
            outcome.trace = f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
        _guarded(lambda: _write(self._span, outcome))
        return outcome

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:  # fmt: skip
        if self._token is not None:
            contexts.detach(self._token)
        if os.getpid() == self._pid:  # and not a process that the task has forked, and that has left it
            _guarded(self._span.end)


def _write(span: Span, outcome: Outcome) -> None:
    """Write an outcome to the span of its attempt."""
    span.set_attribute("celeriac.state", outcome.state)
    failure = outcome.failure
    if failure is None:
        return
    if failure.signature:
        span.set_attribute("celeriac.signature", failure.signature)
    kind = _kind(failure)
    if outcome.state in (states.FAILURE, states.RETRY):
        span.add_event("exception", {"exception.type": kind, "exception.message": failure.message,
                                     "exception.stacktrace": failure.traceback})  # fmt: skip
    if outcome.state == states.FAILURE:
        span.set_attribute("error.type", kind)
        span.set_status(Status(StatusCode.ERROR, f"{kind}: {failure.message}"))


def _guarded(step: Callable[[], None]) -> None:
    """Take a step of a span. What it raises is the fault of the user's processor or exporter, not of the task."""
    try:
        step()
    except Exception:
        log.exception("A span is not exported")


def _is_direct(message: Message) -> bool:
    """Return whether a message was sent alone (or in a small group), to run at once, and runs for the first time."""
    return message.attempt == 1 and message.due_at is None and LINKED not in message.headers


def _with_context(message: Message, carrier: Mapping[str, str], left: frozenset[str]) -> Message:
    """Return a message, and all that is sent when it has ended, with the context of a send, without headers `left`."""
    headers = {name: value for name, value in message.headers.items() if name not in left}
    fields: dict[str, Any] = {"headers": {**headers, **carrier}}
    for name, links in (("link", message.link), ("link_error", message.link_error)):
        if links:
            fields[name] = [replace(link, message=_with_context(link.message, carrier, left)) for link in links]
    return replace(message, **fields)


def _attributes_of(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {
        "messaging.destination.name": message.queue,
        "messaging.message.id": message.id,
        "messaging.message.conversation_id": message.root_id or message.id,
        "celeriac.task": message.task,
    }
    if message.place is not None:
        found["celeriac.workflow"] = message.place.workflow
    return found


def attributes_of_server(url: str) -> dict[str, str | int]:
    """Return the attributes of the broker's address, if it has one and no more.

    >>> attributes_of_server("redis://:secret@example.org:6380/0")
    {'server.address': 'example.org', 'server.port': 6380}
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # several hosts
        return {}
    if not host or "," in parts.netloc or parts.scheme == "memory":
        return {}
    return {"server.address": host} if port is None else {"server.address": host, "server.port": port}


def _kind(failure: Failure) -> str:
    return failure.type if failure.module == "builtins" else f"{failure.module}.{failure.type}"


def _name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
