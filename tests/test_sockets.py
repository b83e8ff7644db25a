"""The limit of a blocking socket's waits (`drivers/sockets.py`), on real sockets."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from celeriac.drivers.sockets import WaitLimit


@pytest.fixture
def quiet() -> Iterator[socket.socket]:
    """A socket on which nothing comes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


def kernels(it: socket.socket) -> float:
    """Return the limit that the kernel keeps, in seconds."""
    seconds, microseconds = struct.unpack("@ll", it.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16))
    return float(seconds + microseconds / 1e6)


def waited(it: socket.socket) -> float:
    start = time.monotonic()
    with pytest.raises(BlockingIOError):
        it.recv(1)
    return time.monotonic() - start


def test_a_read_waits_as_long_as_it_is_set_to(quiet: socket.socket) -> None:
    WaitLimit(quiet).set(0.3)
    assert waited(quiet) >= 0.29


def test_a_write_that_nobody_reads_waits_no_longer(quiet: socket.socket) -> None:
    WaitLimit(quiet).set(0.05)
    with pytest.raises(BlockingIOError):
        quiet.sendall(bytes(64_000_000))


@pytest.mark.parametrize("before", [0.01, 0.5, 0.9, 1.0, 5.0, 1000.0])
@pytest.mark.parametrize("left", [0.001, 0.4, 1.0, 1.1, 6.0, 900.0])
def test_a_limit_that_fits_is_never_longer_than_what_is_left_nor_much_shorter(
    quiet: socket.socket, before: float, left: float
) -> None:
    limit = WaitLimit(quiet)
    limit.set(before)
    limit.fit(left)
    assert min(0.8 * left, 1.0) - 0.004 <= kernels(quiet) <= left + 0.004  # the kernel counts in ticks


def test_a_limit_that_will_do_is_left_as_it_is(quiet: socket.socket) -> None:
    limit = WaitLimit(quiet)
    limit.set(5.0)
    before = kernels(quiet)
    for left in (10.0, 100.0, 5.5):
        limit.fit(left)
        assert kernels(quiet) == before


def test_a_socket_that_somebody_else_has_used_without_blocking_blocks_again(quiet: socket.socket) -> None:
    limit = WaitLimit(quiet)
    limit.set(0.3)
    quiet.setblocking(False)
    limit.fit(0.31)
    assert waited(quiet) >= 0.25
