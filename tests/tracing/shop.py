"""A shop whose workers make spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opentelemetry import trace

from celeriac import Celeriac
from tests.logs.shop import Shop
from tests.tracing.spans import Found, named, read, traced

__all__ = ["SIMPLE", "TracedShop", "batches"]

SHOP = """
import asyncio
import logging
import os
import signal
import sys
import time

import celeriac.tasks.tracing
from celeriac import Celeriac, chain, group, signals
from celeriac.worker import supervisor

supervisor.LEAVE_SECONDS = 60.0  # on a busy machine, children may be slow to end, and to export what they hold
celeriac.tasks.tracing.FLUSH_SECONDS = 60.0

app = Celeriac("shop", broker_url={broker!r}{settings})
logger = logging.getLogger("shop.tasks")

{setup}


@app.task
def add(x, y=1):
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import trace
        with trace.get_tracer("shop").start_as_current_span("inner"):
            logger.info("adding")
    return x + y


@app.task
async def wait(name):
    from opentelemetry import trace
    with trace.get_tracer("shop").start_as_current_span("first " + name):
        open("waits " + name, "w").close()
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    with trace.get_tracer("shop").start_as_current_span("second " + name):
        await asyncio.sleep(0)
        logger.info("waited for %s", name)


@app.task
def total(numbers):
    return sum(numbers)


@app.task(max_retries=0)
def fail(secret):
    raise ValueError("no such flavour")


@app.task(bind=True, default_retry_delay=0.01)
def again(self):
    if self.request.retries < 1:
        raise self.retry(exc=ConnectionError("no answer"))
    return self.request.retries


@app.task
def sends(how):
    if how == "delay":
        return add.delay(1, 2).id
    if how == "chain":
        return (add.s(1, 2) | add.s(3)).delay().id
    return add.apply(args=(1, 2)).get()


@app.task(bind=True)
def replaces(self):
    self.replace(add.s(4, 5))


@app.task
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def forks():
    child = os.fork()
    if not child:
        return "child"
    os.waitpid(child, 0)
    return "parent"


@app.task
def loaded():
    return sorted(name for name in sys.modules if name.startswith("opentelemetry"))


@app.task
def headers():
    from celeriac import current_request
    return current_request().headers
"""

START = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from tests.tracing.spans import FileExporter


def start_tracing(**more):
    provider = TracerProvider()
    provider.add_span_processor({processor})
    trace.set_tracer_provider(provider)


signals.{signal}.connect(start_tracing)
"""

SIMPLE = "SimpleSpanProcessor(FileExporter('spans'))"


def batches(exporter: str = "FileExporter('spans')") -> str:
    """Return a processor that exports nothing for an hour, unless it is flushed."""
    return f"BatchSpanProcessor({exporter}, schedule_delay_millis=3_600_000)"


class TracedShop(Shop):
    """A folder with `shop.py`, a worker that makes spans, and an app here that does, too."""

    def open(self, *arguments: str, processor: str = SIMPLE, signal: str = "worker_process_init", setup: str = "",
             broker: str = "", into: Any = None, **settings: Any) -> TracedShop:  # fmt: skip
        broker = broker or f"sqlite:///{self.folder}/celeriac.db"
        setup = START.format(processor=processor, signal=signal) + setup if processor else setup
        keywords = "".join(f", {name}={value!r}" for name, value in settings.items())
        module = SHOP.format(setup=setup, broker=broker, settings=keywords)
        (self.folder / "shop.py").write_text(module)
        self.app = Celeriac("shop", broker_url=broker, environ={}, **settings)
        self.provider = traced(self.app, self.path)
        self.work("-n", "w1", *arguments, into=into)
        return self

    @property
    def path(self) -> Path:
        return self.folder / "spans"

    def tracer(self) -> trace.Tracer:
        """Return a tracer for spans of the caller."""
        return self.provider.get_tracer("tests")

    def spans(self) -> list[Found]:
        return read(self.path)

    def found(self, name: str, count: int = 1) -> list[Found]:
        """Wait for spans of a name, and return them."""
        self.wait(lambda: len(named(self.spans(), name)) >= count, f"{count} spans of the name {name!r}")
        spans = named(self.spans(), name)
        assert len(spans) == count, spans
        return spans
