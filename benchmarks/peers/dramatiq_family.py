"""Base class of the Dramatiq contenders: processes with 8 threads, default middleware.

Dramatiq has no bulk call: a group sends its messages one by one, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import dramatiq

from benchmarks.peers.base import NONE, RESULTS
from benchmarks.peers.server_peer import ServerPeer

__all__ = ["SETTINGS", "DramatiqPeer", "noop"]

THREADS = 8
SETTINGS = f"processes of {THREADS} threads, default middleware; at least once; no bulk call"


def noop(argument: Any) -> Any:
    return argument if RESULTS != NONE else None


class DramatiqPeer(ServerPeer):
    """Dramatiq with the given broker, which becomes the process's global broker."""

    title = "Dramatiq"
    module = "dramatiq"

    def __init__(self, place: str, broker: dramatiq.Broker, **options: Any) -> None:
        dramatiq.set_broker(broker)
        self.actor = dramatiq.actor(noop, **options)
        self._place = place

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            self.actor.send(argument)

    def roundtrip(self, timeout: float) -> Any:
        return self.actor.send(1).get_result(block=True, timeout=int(timeout * 1000))

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "dramatiq", self._place, "-p", str(children), "-t", str(THREADS),
                "--skip-logging"]  # fmt: skip
