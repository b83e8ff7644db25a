"""Spans survive the end of the process that made them, where that is possible; and forks stay clean."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from celeriac.errors import WorkerLost
from celeriac.inspector import Inspector
from tests.patience import PATIENCE, in_time
from tests.tracing.shop import TracedShop, batches
from tests.tracing.spans import named

HANGS = """
celeriac.tasks.tracing.FLUSH_SECONDS = 2.0


class Hangs(FileExporter):
    def export(self, spans):
        super().export(spans)
        open("exporting", "a").write("x")
        time.sleep(3600)
"""

LATE = f"""
@signals.worker_process_init.connect
def begin(**more):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from tests.tracing.spans import FileExporter

    provider = TracerProvider()
    provider.add_span_processor({batches()})
    trace.set_tracer_provider(provider)
"""


def children(shop: TracedShop) -> list[psutil.Process]:
    (forkserver,) = psutil.Process(shop.workers[0].pid).children()
    return forkserver.children()


def test_recycled_children_lose_no_span(shop: TracedShop) -> None:
    """Ten tasks in, ten spans out: opentelemetry-python-contrib#4916."""
    shop.open("--max-tasks-per-child", "2", processor=batches())
    for result in [shop.app.send_task("shop.add", [n]) for n in range(10)]:
        result.get(timeout=PATIENCE)
    shop.stop()
    spans = named(shop.spans(), "process shop.add")
    assert len(spans) == 10
    assert len({span.pid for span in spans}) >= 5


def test_the_supervisor_need_not_know_that_its_children_make_spans(shop: TracedShop) -> None:
    shop.open("-c", "1", processor="", setup=LATE)
    shop.app.send_task("shop.add", [1]).get(timeout=PATIENCE)
    shop.stop()
    assert len(named(shop.spans(), "process shop.add")) == 1


@pytest.mark.parametrize("lane", ["plain", "coroutine"])
def test_children_that_are_asked_to_end_lose_no_span(shop: TracedShop, lane: str) -> None:
    shop.open(processor=batches())
    (shop.folder / "go").touch()
    task, args = ("shop.add", [1]) if lane == "plain" else ("shop.wait", ["tea"])
    for result in [shop.app.send_task(task, args) for _ in range(10)]:
        result.get(timeout=PATIENCE)
    assert named(shop.spans(), f"process {task}") == []
    shop.stop()
    assert len(named(shop.spans(), f"process {task}")) == 10


def test_a_child_that_the_pool_gives_up_exports_its_spans(shop: TracedShop) -> None:
    shop.open(processor=batches())
    for result in [shop.app.send_task("shop.add", [n]) for n in range(10)]:
        result.get(timeout=PATIENCE)
    before = len(children(shop))
    asyncio.run(Inspector(shop.app, timeout=PATIENCE).pool_shrink(1))
    shop.wait(lambda: len(children(shop)) == before - 1, "the end of a child")
    shop.stop()
    assert len(named(shop.spans(), "process shop.add")) == 10


def test_a_killed_child_loses_what_it_had_not_exported_and_nothing_else(shop: TracedShop) -> None:
    shop.open("-c", "1", processor=batches())
    for _ in range(3):
        shop.app.send_task("shop.add", [1]).get(timeout=PATIENCE)
    with pytest.raises(WorkerLost):
        shop.app.send_task("shop.die", acks_late=False).get(timeout=PATIENCE)
    for _ in range(2):
        shop.app.send_task("shop.add", [1]).get(timeout=PATIENCE)
    shop.stop()
    assert len(named(shop.spans(), "process shop.add")) == 2
    assert named(shop.spans(), "process shop.die") == []


def test_an_exporter_that_hangs_does_not_hold_up_the_end(shop: TracedShop) -> None:
    shop.open("-c", "1", processor=batches("Hangs('spans')"), setup=HANGS)
    shop.app.send_task("shop.add", [1]).get(timeout=PATIENCE)
    begun = time.monotonic()
    shop.stop()
    assert (shop.folder / "exporting").read_text() == "x"
    assert in_time(time.monotonic() - begun, 5.0)
    assert shop.lines("Spans are lost: they could not be exported within 2 s")


def test_a_second_signal_does_not_wait_for_exports(shop: TracedShop) -> None:
    shop.open("-c", "1", processor=batches("Hangs('spans')"), setup=HANGS)
    shop.app.send_task("shop.add", [1]).get(timeout=PATIENCE)
    shop.workers[0].send_signal(signal.SIGQUIT)
    assert shop.workers[0].wait(PATIENCE) == 0


def test_children_are_forked_from_a_process_without_threads(shop: TracedShop) -> None:
    shop.open("-c", "1", processor=batches())
    shop.app.send_task("shop.add", [1]).get(timeout=PATIENCE)
    (forkserver,) = psutil.Process(shop.workers[0].pid).children()
    assert forkserver.num_threads() == 1
    assert psutil.Process(shop.workers[0].pid).num_threads() == 1
    assert max(child.num_threads() for child in forkserver.children()) == 2
    assert not shop.lines("OpenTelemetry provider was made")


def test_a_provider_that_is_made_before_the_fork_is_warned_of(shop: TracedShop) -> None:
    shop.open("-c", "1", processor=batches(), signal="worker_init")
    assert shop.lines("WARNING celeriac.otel: An OpenTelemetry provider was made in the process from which")
    shop.app.send_task("shop.add", [1]).get(timeout=PATIENCE)
    shop.stop()
    assert len(named(shop.spans(), "process shop.add")) == 1


def test_a_thread_pool_exports_its_spans_at_the_end(shop: TracedShop) -> None:
    shop.open("--pool", "threads", processor=batches(), signal="worker_init")
    for result in [shop.app.send_task("shop.add", [n]) for n in range(10)]:
        result.get(timeout=PATIENCE)
    shop.stop()
    spans = named(shop.spans(), "process shop.add")
    assert len(spans) == 10
    assert {span.pid for span in spans} == {shop.workers[0].pid} != {os.getpid()}
