"""Celery's workflows, on Redis, configured like `celery_redis`."""

from __future__ import annotations

from typing import Any

from celery import chain, chord, group  # type: ignore[import-untyped]

from benchmarks.peers.celery_redis import CeleryRedis
from benchmarks.peers.workflow_peer import WorkflowPeer, add_one, count


class CeleryCanvas(WorkflowPeer, CeleryRedis):
    """With the settings that the issue requires."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._count = self.app.task(name="count")(count)
        self._add_one = self.app.task(name="add_one")(add_one)

    def group(self, count: int) -> Any:
        return group([self.noop.s(number) for number in range(count)])

    def chord(self, count: int) -> Any:
        return chord([self.noop.s(number) for number in range(count)], self._count.s())

    def chain(self, count: int) -> Any:
        return chain(self._add_one.s(0), *[self._add_one.s() for _ in range(count - 1)])


PEER = CeleryCanvas(__name__)
app = PEER.app
