"""Celeriac's workflows, on Redis."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.celeriac_redis import CeleriacRedis
from benchmarks.peers.workflow_peer import WorkflowPeer, add_one, count
from celeriac import chain, chord, group


class CeleriacCanvas(WorkflowPeer, CeleriacRedis):
    """With default settings."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._count = self.app.task(name="count")(count)
        self._add_one = self.app.task(name="add_one")(add_one)

    def group(self, count: int) -> Any:
        return group(self.noop.s(number) for number in range(count))

    def chord(self, count: int) -> Any:
        return chord([self.noop.s(number) for number in range(count)], self._count.s())

    def chain(self, count: int) -> Any:
        return chain(self._add_one.s(0), *[self._add_one.s() for _ in range(count - 1)])


PEER = CeleriacCanvas(__name__)
app = PEER.app
