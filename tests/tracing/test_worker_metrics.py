"""Metrics of a worker: what it has counted, to the last task."""

from __future__ import annotations

import json
from typing import Any

from tests.patience import PATIENCE
from tests.tracing.shop import TracedShop

METERS = """
@signals.worker_ready.connect
def start_metrics(**more):
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    exporter = ConsoleMetricExporter(out=open("metrics", "w"), formatter=lambda data: data.to_json(indent=None) + "\\n")
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter, 200)]))
"""


def last(shop: TracedShop) -> dict[str, dict[tuple[Any, ...], float]]:
    """Return the last values of each metric, by task, state and exception."""
    lines = (shop.folder / "metrics").read_text().splitlines()
    (scope,) = json.loads(lines[-1])["resource_metrics"][0]["scope_metrics"]
    found: dict[str, dict[tuple[Any, ...], float]] = {}
    for metric in scope["metrics"]:
        assert metric["data"]["is_monotonic"]
        for point in metric["data"]["data_points"]:
            attributes = point["attributes"]
            assert (attributes["messaging.system"], attributes["messaging.destination.name"]) == ("celeriac", "default")
            key = attributes["celeriac.task"], attributes["celeriac.state"], attributes.get("error.type")
            found.setdefault(metric["name"], {})[key] = point["value"]
    return found


def test_a_worker_shows_what_it_has_counted_until_its_end(shop: TracedShop) -> None:
    shop.open(processor="", setup=METERS)
    for result in [shop.app.send_task("shop.total", [[n]]) for n in range(5)]:
        result.get(timeout=PATIENCE)
    shop.wait(lambda: (shop.folder / "metrics").exists() and "shop.total" in (shop.folder / "metrics").read_text(),
              "metrics while the worker runs")  # fmt: skip
    shop.run("fail", "x")
    shop.stop()
    found = last(shop)
    total, failed = ("shop.total", "SUCCESS", None), ("shop.fail", "FAILURE", "ValueError")
    assert found["messaging.client.consumed.messages"] == {total: 5, failed: 1}
    assert {*found["celeriac.process.time"]} == {*found["celeriac.wait.time"]} == {total, failed}
    assert all(0 < seconds < PATIENCE for seconds in found["celeriac.process.time"].values())
