"""Ports for servers that tests and benchmarks start.

The system gives ports of a certain range to connections that go out. A server that is stopped and started again on a
port of that range may find it taken by any of the connections which other tests open meanwhile. The ports given here
lie below that range; only a server of another test can take one, by a rare chance.
"""

from __future__ import annotations

import socket
from pathlib import Path
from random import SystemRandom

__all__ = ["free_port", "free_ports"]

LOWEST = 10_000
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_RANGE = "32768 60999"

_random = SystemRandom()  # the other generator is seeded alike in all processes that run tests
_given: set[int] = set()


def free_port() -> int:
    """Return a port of this machine on which nothing listens, and which this process was not given before."""
    highest = int((RANGE.read_text() if RANGE.exists() else USUAL_RANGE).split()[0])
    while True:
        port = _random.randrange(LOWEST, highest)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def free_ports(number: int) -> list[int]:
    """Return so many of them."""
    return [free_port() for _ in range(number)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
