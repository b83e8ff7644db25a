"""Base class of the Celery contenders, with the settings that the issues require: prefork pool, prefetch 64.

Gossip, mingle and heartbeat are off. In addition, as Celery's documentation advises for speed: no results where none
are measured (`ignore_result`), rate limits off, events off (the default). Celery has no bulk call: a group sends its
messages one by one, and so does this, with one producer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from celery import Celery  # type: ignore[import-untyped]

from benchmarks.peers.base import NONE, RESULTS
from benchmarks.peers.server_peer import ServerPeer

__all__ = ["SETTINGS", "CeleryPeer", "noop"]

PREFETCH = 64
SETTINGS = (f"prefork, prefetch {PREFETCH} for each child, --without-gossip --without-mingle --without-heartbeat, rate "
            "limits off; at most once (acknowledged early); no bulk call")  # fmt: skip


def noop(argument: Any) -> Any:
    return argument


class CeleryPeer(ServerPeer):
    """Celery; the module that creates it assigns its app to `app`."""

    title = "Celery"
    module = "celery"

    def __init__(self, place: str, broker: str, backend: str, **settings: Any) -> None:
        self.app = Celery("benchmark", broker=broker, backend=None if RESULTS == NONE else backend)
        self.app.conf.update(
            task_ignore_result=RESULTS == NONE,
            worker_prefetch_multiplier=PREFETCH,
            worker_disable_rate_limits=True,
            broker_connection_retry_on_startup=True,
            **settings,
        )
        self.noop = self.app.task(name="noop")(noop)
        self._place = place

    def one_by_one(self, arguments: Iterable[Any]) -> None:
        for argument in arguments:
            self.noop.delay(argument)

    def in_bulk(self, arguments: Iterable[Any]) -> None:
        with self.app.producer_or_acquire() as producer:
            for argument in arguments:
                self.noop.apply_async((argument,), producer=producer)

    def roundtrip(self, timeout: float) -> Any:
        return self.noop.delay(1).get(timeout=timeout)

    def worker(self, children: int, tuned: bool) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", self._place, "worker", "-P", "prefork", "-c", str(children),
                "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]  # fmt: skip
