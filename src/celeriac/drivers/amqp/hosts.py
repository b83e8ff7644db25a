"""The nodes of a cluster, in the order in which a process tries them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable

__all__ = ["Host", "Hosts"]

Host = tuple[str, int]


class Hosts:
    """The nodes. Each process begins with another one, so that clients spread; one that has failed is tried last."""

    def __init__(self, hosts: Iterable[Host]) -> None:
        self._hosts = list(hosts)
        random.shuffle(self._hosts)

    def in_turn(self) -> list[Host]:
        """Return all nodes, those that have failed last."""
        return list(self._hosts)

    def failed(self, host: Host) -> None:
        """Note that a node cannot be reached, does not answer, or has ended a connection."""
        if len(self._hosts) > 1:
            with contextlib.suppress(ValueError):  # another thread notes it too
                self._hosts.remove(host)
                self._hosts.append(host)

    def __repr__(self) -> str:
        return f"<Hosts {self._hosts}>"
