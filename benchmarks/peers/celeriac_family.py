"""Base class of the Celeriac contenders on a server: default settings, without results where none are measured."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from benchmarks.peers.base import NONE, RESULTS
from benchmarks.peers.server_peer import ServerPeer
from celeriac import Celeriac

__all__ = ["CeleriacPeer", "noop"]


def noop(argument: Any) -> Any:
    return argument


class CeleriacPeer(ServerPeer):
    """Celeriac; the module that creates it assigns its app to `app`."""

    title = "Celeriac"
    module = "celeriac"

    def __init__(self, place: str, url: str, **settings: Any) -> None:
        self.app = Celeriac("benchmark", broker_url=url, task_ignore_result=RESULTS == NONE, **settings)
        self.noop = self.app.task(name="noop")(noop)
        self._place = place

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            self.noop.delay(argument)

    def in_bulk(self, arguments: Iterable[Any]) -> None:
        self.noop.delay_many((argument,) for argument in arguments)

    def roundtrip(self, timeout: float) -> Any:
        return self.noop.delay(1).get(timeout)

    def hold(self, held: bool) -> None:
        operations = self.app.broker.operations()
        self.app.broker.complete(operations.pause("default") if held else operations.resume("default"))

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "celeriac.cli", "-A", self._place, "worker", "-c", str(children)]
