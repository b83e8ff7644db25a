"""What a scrape of metrics says, as the client library of Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Scrape", "names", "read", "shrunk", "value"]

Scrape: TypeAlias = "dict[tuple[str, frozenset[tuple[str, str]]], float]"


def read(text: str) -> Scrape:
    """Return all samples, by name and labels. There are no two of the same name and labels."""
    found: Scrape = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(scrape: Scrape, name: str, /, **labels: str) -> float:
    """Return the sum of the samples of a name that have these labels."""
    return sum(one for (found, with_), one in scrape.items() if found == name and labels.items() <= with_)


def shrunk(before: Scrape, after: Scrape) -> Iterator[str]:
    """Yield what has shrunk that must not: counters, and what histograms count."""
    for key, old in before.items():
        if key[0].endswith(("_total", "_count", "_sum", "_bucket")):
            new = after.get(key)
            if new is None or new < old:
                yield f"{key[0]} {dict(key[1])} was {old}, and is {new}"


def names(scrape: Scrape) -> set[str]:
    """Return the names of the samples."""
    return {name for name, _ in scrape}
