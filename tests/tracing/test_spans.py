"""Spans in one process: when they are made, how sends fail, what a fault in them costs."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult

from celeriac import Celeriac, group
from celeriac.errors import BrokerUnavailable, ImproperlyConfigured
from celeriac.logs import JSONFormatter, TaskFilter
from celeriac.model.message import Message
from celeriac.otel.spans import AppSpans, attributes_of_server
from celeriac.tasks.execution import Executor

PROGRAM = """
import sys
from celeriac import Celeriac

app = Celeriac("shop", broker_url="memory://", environ={{}}, otel={mode!r})

@app.task
def add(x, y):
    return x + y

{code}
"""


class Traced:
    """An app with two tasks, and the spans that it has made in this process."""

    def __init__(self, app: Celeriac, **provider: Any) -> None:
        self.app = app
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **provider)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        app.tracing._spans = AppSpans(app, self.provider)
        self.executor = Executor(app, "w1")

        @app.task(name="shop.add")
        def add(x: int, y: int = 1) -> int:
            return x + y

        @app.task(name="shop.aadd")
        async def aadd(x: int) -> int:
            return x + 1

        self.add, self.aadd = add, aadd

    def sent(self) -> list[Message]:
        """Return the messages in the broker."""
        return self.app.broker.complete(self.app.broker.operations().peek("default", 100))

    def names(self) -> list[str]:
        return [span.name for span in self.exporter.get_finished_spans()]

    def one(self, name: str) -> Any:
        (found,) = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return found


@pytest.fixture
def traced(app: Celeriac) -> Traced:
    return Traced(app)


def run(code: str, mode: str = "auto") -> str:
    """Run code after `PROGRAM`; return what it prints."""
    program = PROGRAM.format(mode=mode, code=textwrap.dedent(code))
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


# --- When there are spans ------------------------------------------------------------------------------


def test_without_a_provider_nothing_of_opentelemetry_is_imported() -> None:
    assert run("""
        add.delay(1, 2)
        add.apply((1, 2))
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """) == "[]"  # fmt: skip


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_with_the_api_alone_nothing_of_it_is_called(mode: str) -> None:
    assert run("""
        from opentelemetry import trace
        trace.ProxyTracerProvider.get_tracer = None
        add.delay(1, 2)
        add.apply((1, 2))
        (message,) = app.broker.complete(app.broker.operations().peek("default", 9))
        print(message.headers)
        print("celeriac.otel.spans" in sys.modules)
    """, mode).splitlines() == ["{}", "False"]  # fmt: skip


@pytest.mark.parametrize(("mode", "names"), [
    ("auto", "send shop.add, process shop.add"), ("on", "send shop.add, process shop.add"), ("off", ""),
])  # fmt: skip
def test_spans_begin_with_the_provider(mode: str, names: str) -> None:
    assert run("""
        add.delay(1, 2)
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        add.delay(1, 2)
        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        add.delay(1, 2)
        add.apply((1, 2))
        print(", ".join(span.name for span in exporter.get_finished_spans()))
    """, mode) == names  # fmt: skip


def test_a_missing_package_is_an_error_if_traces_are_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    app = Celeriac("shop", broker_url="memory://", environ={}, otel="on")
    with pytest.raises(ImproperlyConfigured, match=r"-api is not installed: pip install 'celeriac\[otel\]'"):
        app.send_task("shop.add")


def test_tracing_can_be_switched_while_the_app_is_configured(app: Celeriac) -> None:
    traced = Traced(app)
    app.conf.otel = "off"
    traced.add.delay(1)
    assert traced.names() == []


# --- What is in them -----------------------------------------------------------------------------------


def test_async_calls_make_the_same_spans(traced: Traced) -> None:
    async def call() -> None:
        await traced.add.adelay(1)
        await traced.add.adelay_many([(1,), (2,)])

    asyncio.run(call())
    assert traced.names() == ["send shop.add"] * 2
    single, first, second = [message.headers for message in traced.sent()]
    assert first == second
    assert set(single) == {"traceparent"}
    assert set(first) == {"traceparent", "celeriac-link"}


def test_baggage_reaches_the_task(traced: Traced) -> None:
    seen = []

    @traced.app.task(name="shop.look")
    def look() -> None:
        seen.append(baggage.get_baggage("tenant"))

    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        look.delay()
        look.apply_async(countdown=1000)
    finally:
        context.detach(token)
    later = traced.app.broker.complete(traced.app.broker.operations().scheduled("default", 100))
    for message in (*traced.sent(), *later):
        traced.executor.run(message)
    assert seen == ["acme", "acme"]
    assert baggage.get_baggage("tenant") is None


def test_the_current_span_is_the_attempts_own_while_it_runs_and_none_after_it(traced: Traced) -> None:
    seen: list[int] = []

    @traced.app.task(name="shop.look")
    def look() -> None:
        seen.append(trace.get_current_span().get_span_context().span_id)

    traced.executor.run(Message(id="1", task="shop.look", body=b"[[],{}]"))
    assert seen == [traced.one("process shop.look").get_span_context().span_id]
    assert not trace.get_current_span().get_span_context().is_valid


def test_an_outcome_names_its_span(traced: Traced) -> None:
    outcome = traced.executor.run(Message(id="1", task="shop.add", body=b"[[1],{}]"))
    found = traced.one("process shop.add").get_span_context()
    assert outcome.trace.split("-")[1:3] == [f"{found.trace_id:032x}", f"{found.span_id:016x}"]


def test_a_task_in_the_callers_process_is_a_child_of_its_span(traced: Traced) -> None:
    with traced.provider.get_tracer("t").start_as_current_span("test") as outer:
        traced.add.apply((1,))
        traced.aadd.apply((1,))
    for name in ("process shop.add", "process shop.aadd"):
        assert traced.one(name).parent.span_id == outer.get_span_context().span_id
        assert "messaging.client.id" not in traced.one(name).attributes


def test_an_attempt_that_is_not_known_here_has_a_span_too(traced: Traced) -> None:
    outcome = traced.executor.run(Message(id="1", task="shop.gone"))
    span = traced.one("process shop.gone")
    assert outcome.failure is not None
    assert span.attributes["error.type"] == "celeriac.errors.NotRegistered"


@pytest.mark.parametrize("headers", [
    {"traceparent": 7}, {"traceparent": ["00", {}]}, {"traceparent": "x" * 100, "tracestate": "é" * 9000},
    {"traceparent": f"00-{'0' * 32}-{'0' * 16}-01"}, {"baggage": "=,;" * 5000, "celeriac-link": {"a": None}},
])  # fmt: skip
def test_headers_that_are_no_context_cost_nothing(traced: Traced, headers: dict[str, Any]) -> None:
    outcome = traced.executor.run(Message(id="1", task="shop.add", body=b"[[1],{}]", headers=headers))
    span = traced.one("process shop.add")
    assert (outcome.value, span.parent, list(span.links)) == (b"2", None, [])


def test_a_sampler_sees_the_attributes_at_the_start(app: Celeriac) -> None:
    seen = {}

    class Looks(Sampler):
        def should_sample(self, *given: Any, **more: Any) -> SamplingResult:
            seen[given[2]] = set(more["attributes"] if "attributes" in more else given[4])
            return SamplingResult(Decision.RECORD_AND_SAMPLE, None)

        def get_description(self) -> str:
            return "looks"

    traced = Traced(app, sampler=Looks())
    traced.add.delay(1)
    traced.executor.run(traced.sent()[0])
    common = {"messaging.system", "messaging.operation.name", "messaging.operation.type", "messaging.destination.name",
              "messaging.message.id", "messaging.message.conversation_id", "celeriac.task"}  # fmt: skip
    assert seen == {
        "send shop.add": common, "process shop.add": common | {"messaging.client.id", "celeriac.attempt"}
    }  # fmt: skip


def test_what_is_not_sampled_is_passed_on_as_such(app: Celeriac) -> None:
    traced = Traced(app, sampler=ALWAYS_OFF)
    traced.add.delay(1)
    (message,) = traced.sent()
    assert int(message.headers["traceparent"][-2:], 16) & 1 == 0
    assert traced.executor.run(message).value == b"2"
    assert traced.names() == []


def test_a_message_that_is_sent_again_belongs_to_the_new_send(traced: Traced) -> None:
    old = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "a=1", "tenant": "acme"}
    traced.app.publish([Message(id="1", task="shop.add", body=b"[[1],{}]", headers=old)])
    (message,) = traced.sent()
    assert set(message.headers) == {"traceparent", "tenant"}
    assert message.headers["traceparent"] != old["traceparent"]


def test_headers_that_a_task_passes_on_do_not_make_a_link_of_a_parent(traced: Traced) -> None:
    traced.add.delay_many([(1,), (2,)])
    traced.add.apply_async((3,), headers=traced.sent()[0].headers)
    assert "celeriac-link" not in traced.sent()[2].headers


def test_an_empty_group_makes_no_span(traced: Traced) -> None:
    assert group([]).delay().get() == []
    assert group(traced.add.s(1)).delay().id
    assert traced.names() == ["send group"]


@pytest.mark.parametrize(("url", "attributes"), [
    ("redis://:secret@example.org:6380/0", {"server.address": "example.org", "server.port": 6380}),
    ("amqp://example.org", {"server.address": "example.org"}),
    ("amqp://a:1,b:2", {}), ("sqlite:///celeriac.db", {}), ("memory://shop", {}),
])  # fmt: skip
def test_the_address_of_the_broker_is_there_without_its_secrets(url: str, attributes: dict[str, Any]) -> None:
    assert attributes_of_server(url) == attributes


# --- Faults --------------------------------------------------------------------------------------------


def test_a_call_that_cannot_be_sent_is_an_error_of_its_span(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(messages: Any) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(traced.app.broker, "publish", refuse)
    with pytest.raises(BrokerUnavailable):
        traced.add.delay(1)
    with pytest.raises(BrokerUnavailable):
        traced.add.delay_many([(1,), (2,)])
    for span in traced.exporter.get_finished_spans():
        assert span.status.status_code is trace.StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == "celeriac.errors.BrokerUnavailable"
    assert traced.names() == ["send shop.add"] * 2
    assert not trace.get_current_span().get_span_context().is_valid


class _Faulty(SpanProcessor):
    def __init__(self, at: str) -> None:
        self._at = at

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        if self._at == "start":
            raise ZeroDivisionError

    def on_end(self, span: Any) -> None:
        if self._at == "end":
            raise ZeroDivisionError


@pytest.mark.parametrize("at", ["start", "end"])
def test_a_processor_that_raises_costs_no_task(app: Celeriac, at: str, caplog: pytest.LogCaptureFixture) -> None:
    traced = Traced(app)
    traced.provider.add_span_processor(_Faulty(at))
    assert traced.add.delay(1).id == traced.sent()[0].id
    assert traced.executor.run(traced.sent()[0]).value == b"2"
    assert traced.executor.run_any(Message(id="2", task="shop.aadd", body=b"[[1],{}]")).value == b"2"
    assert "ZeroDivisionError" in caplog.text
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_propagator_that_raises_costs_no_call(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def inject(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("opentelemetry.propagate.inject", inject)
    assert traced.add.delay(1).id == traced.sent()[0].id
    assert "passes no context on" in caplog.text
    assert traced.names() == ["send shop.add"]


def test_metrics_that_raise_cost_no_call(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def measure(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(AppSpans, "_measure", measure)
    assert traced.add.delay(1).id == traced.sent()[0].id
    assert "ZeroDivisionError" in caplog.text


# --- The log, and metrics of the caller ----------------------------------------------------------------


def test_lines_name_the_span_in_which_they_were_written(traced: Traced) -> None:
    record = logging.makeLogRecord({"msg": "hello"})
    with traced.provider.get_tracer("t").start_as_current_span("test") as span:
        TaskFilter().filter(record)
        line = JSONFormatter().format(logging.makeLogRecord({"msg": "hello"}))
    found = span.get_span_context()
    ids = f"{found.trace_id:032x}", f"{found.span_id:016x}"
    assert (vars(record)["trace_id"], vars(record)["span_id"]) == ids
    assert f'"trace_id": "{ids[0]}", "span_id": "{ids[1]}"' in line
    assert "trace_id" not in JSONFormatter().format(logging.makeLogRecord({"msg": "hello"}))


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """A reader of all metrics of this process, which need not have a provider that cannot be set twice."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr("opentelemetry.metrics.get_meter", provider.get_meter)
    yield reader
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Return the points of each metric."""
    data = reader.get_metrics_data()
    assert data is not None
    return {metric.name: [*metric.data.data_points] for resource in data.resource_metrics
            for scope in resource.scope_metrics for metric in scope.metrics}  # fmt: skip


def test_what_is_sent_is_counted_and_timed(reader: InMemoryMetricReader, app: Celeriac) -> None:
    traced = Traced(app)
    traced.add.delay(1)
    traced.add.delay_many([(1,), (2,)])
    found = points(reader)
    (sent,) = found["messaging.client.sent.messages"]
    (took,) = found["messaging.client.operation.duration"]
    assert (sent.value, took.count) == (3, 2)
    assert sent.attributes == {
        "messaging.system": "celeriac", "messaging.operation.name": "send", "messaging.operation.type": "send",
        "messaging.destination.name": "default",
    }  # fmt: skip
