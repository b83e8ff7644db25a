"""Celeriac's result backends; the module that creates the contender names the driver's package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.peers.store_peer import URL, StorePeer
from celeriac import Celeriac, states
from celeriac.model.outcome import Outcome

__all__ = ["CeleriacStore"]

VALUE = b'"' + b"x" * 60 + b'"'  # its outcome is encoded in about 150 bytes


class CeleriacStore(StorePeer):
    """`Backend.store`, as a worker calls it: in an event loop."""

    title = "Celeriac"
    module = "celeriac"
    settings = "defaults; the first final outcome stays"

    def __init__(self, *packages: str) -> None:
        self.packages = ("celeriac", *packages)
        self.app = Celeriac("benchmark", broker_url="memory://", result_backend=URL)
        self._loop = asyncio.Runner()

    def store(self, ids: Sequence[str]) -> int:
        outcomes = [Outcome(id=id, task="noop", state=states.SUCCESS, value=VALUE) for id in ids]
        return sum(self._loop.run(self.app.backend.store(outcomes)))
