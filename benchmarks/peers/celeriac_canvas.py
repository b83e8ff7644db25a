"""Workflows of ours, on Redis."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.celeriac_redis import CeleriacRedis, app
from benchmarks.peers.workflow_peer import WorkflowPeer
from celeriac import chain, chord, group

noop = app.tasks["noop"]


@app.task(name="count")
def count(values: list[Any]) -> int:
    return len(values)


@app.task(name="add_one")
def add_one(number: int) -> int:
    return number + 1


class CeleriacCanvas(WorkflowPeer, CeleriacRedis):
    """As shipped."""

    def group(self, count: int) -> Any:
        return group(noop.s(number) for number in range(count))

    def chord(self, count_: int) -> Any:
        return chord([noop.s(number) for number in range(count_)], count.s())

    def chain(self, count: int) -> Any:
        return chain(add_one.s(0), *[add_one.s() for _ in range(count - 1)])

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [part.replace("celeriac_redis", "celeriac_canvas") for part in super().worker(children, tuned)]


PEER = CeleriacCanvas()
