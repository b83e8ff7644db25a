"""Writes samples as text that Prometheus reads, with prometheus-client (extra `celeriac[prometheus]`).

The client's own counters and histograms are not used: they would cost each task some microseconds. What was counted
elsewhere is handed to its encoder by a collector, in a registry of its own for each text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celeriac.errors import ImproperlyConfigured
from celeriac.metrics.samples import Samples, Value
from celeriac.metrics.table import Metric
from celeriac.model.spread import Spread

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ImproperlyConfigured("Metrics need a package that is not installed (prometheus_client): "
                               "pip install 'celeriac[prometheus]'.") from error  # fmt: skip

__all__ = ["Text", "text_of"]

Text = tuple[bytes, str]
"""What is sent: the text, and its content type."""


def text_of(samples: Samples, accept: str) -> Text:
    """Return samples in the format that a client accepts: OpenMetrics or Prometheus' text format. Takes a while."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(samples))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Samples(Collector):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def describe(self) -> list[Any]:
        """Return nothing: the names of a registry with one collector cannot collide."""
        return []

    def collect(self) -> Iterator[Any]:
        """Yield the families, in the order of the table."""
        for name, metric in self._samples.metrics.items():
            if name in self._samples.values:
                yield _family(metric, self._samples.values[name])


def _family(metric: Metric, values: dict[tuple[str, ...], Value]) -> Any:
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(str, metric.buckets), "+Inf"]
        for labels, spread in values.items():
            assert isinstance(spread, Spread)
            counts = [*spread.cumulative(metric.buckets), spread.n]
            histogram.add_metric(labels, [*zip(bounds, counts, strict=True)], spread.total)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        assert not isinstance(value, Spread)
        family.add_metric(labels, value)
    return family
