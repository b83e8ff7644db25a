"""The hosts of a URL (the nodes of a cluster, a server and its standby), in the order in which a process tries them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from celeriac.drivers.sockets import port_number
from celeriac.errors import BrokerMisconfigured

__all__ = ["Host", "Hosts", "parse_hosts"]

Host = tuple[str, int]
Connection = TypeVar("Connection")


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

    async def first(self, timeout: float, open: Callable[[Host], Awaitable[Connection]]) -> Connection:
        """Return what `open` returns for the first host that answers, within so many seconds for all.

        Raises the last host's `OSError`, or the `BrokerMisconfigured` of one, as the others have the same users.
        """
        failure: Exception | None = None
        deadline = time.monotonic() + timeout
        order = self.in_turn()
        for tried, host in enumerate(order):
            try:
                async with asyncio.timeout((deadline - time.monotonic()) / (len(order) - tried)):
                    return await open(host)
            except BrokerMisconfigured:
                raise
            except OSError as error:
                self.failed(host)
                failure = error
        raise failure or ConnectionError("the URL names no host")

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
        return host, port_number(rest[1:]) if rest[1:] else port
    host, _, digits = text.partition(":")
    return host or "localhost", port_number(digits) if digits else port
