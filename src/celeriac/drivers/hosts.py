"""The hosts of a URL (the nodes of a cluster, a server and its standby), in the order in which a process tries them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable

from celeriac.drivers.sockets import number

__all__ = ["Host", "Hosts", "parse_hosts"]

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


def parse_hosts(text: str, port: int) -> tuple[Host, ...]:
    """Return the hosts in a URL, `host[:port][,host[:port]…]`. Raises `ValueError`.

    >>> parse_hosts("a,[::1]:7", 5)
    (('a', 5), ('::1', 7))
    """
    return tuple(_host(part, port) for part in text.split(","))


def _host(text: str, port: int) -> Host:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, number(rest[1:], "port") if rest[1:] else port
    host, _, digits = text.partition(":")
    return host or "localhost", number(digits, "port") if digits else port
