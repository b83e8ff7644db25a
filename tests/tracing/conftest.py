"""The shop whose spans are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracing.shop import TracedShop


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TracedShop]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # workers import the exporter
    shop = TracedShop(tmp_path)
    yield shop
    shop.end()
