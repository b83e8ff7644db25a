"""A server whose answers a test writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.outgoing.endpoint import Endpoint, answering


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with answering() as made:
        yield made
