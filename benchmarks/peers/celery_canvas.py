"""Workflows of Celery, on Redis, set up as `celery_redis` is."""

from __future__ import annotations

from typing import Any

from celery import chain, chord, group  # type: ignore[import-untyped]

from benchmarks.peers.celery_redis import CeleryRedis, app, noop
from benchmarks.peers.workflow_peer import WorkflowPeer


@app.task(name="count")
def count(values: list[Any]) -> int:
    return len(values)


@app.task(name="add_one")
def add_one(number: int) -> int:
    return number + 1


class CeleryCanvas(WorkflowPeer, CeleryRedis):
    """As the issue sets it."""

    def group(self, count: int) -> Any:
        return group([noop.s(number) for number in range(count)])

    def chord(self, count_: int) -> Any:
        return chord([noop.s(number) for number in range(count_)], count.s())

    def chain(self, count: int) -> Any:
        return chain(add_one.s(0), *[add_one.s() for _ in range(count - 1)])

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [part.replace("celery_redis", "celery_canvas") for part in super().worker(children, tuned)]


PEER = CeleryCanvas()
