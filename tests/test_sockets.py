"""Reads and writes that end at a deadline (`drivers/sockets.py`), on real sockets."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from celeriac.drivers.sockets import TimedSocket
from tests.patience import PATIENCE, in_time


@pytest.fixture
def ends() -> Iterator[tuple[TimedSocket, socket.socket]]:
    """Two ends of a connection: ours, and the other's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield TimedSocket(ours), theirs


def test_a_read_returns_what_has_come(ends: tuple[TimedSocket, socket.socket]) -> None:
    ours, theirs = ends
    assert ours.look(10) is None
    assert not ours.stirs()
    theirs.sendall(b"hello")
    assert ours.stirs()
    assert ours.read(10, time.monotonic() + PATIENCE) == b"hello"
    theirs.sendall(b"again")
    assert ours.look(10) == b"again"


def test_a_read_waits_for_what_comes(ends: tuple[TimedSocket, socket.socket]) -> None:
    ours, theirs = ends
    late = threading.Timer(0.05, theirs.sendall, [b"late"])
    late.start()
    assert ours.read(10, time.monotonic() + PATIENCE) == b"late"
    late.join()


def test_a_read_sees_the_end(ends: tuple[TimedSocket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    assert ours.stirs()
    assert ours.read(10, time.monotonic() + PATIENCE) == b""
    assert ours.look(10) == b""


def test_a_read_ends_at_its_deadline(ends: tuple[TimedSocket, socket.socket]) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[0].read(10, start + 0.2)
    assert time.monotonic() - start >= 0.2


def test_signals_do_not_prolong_a_read(ends: tuple[TimedSocket, socket.socket]) -> None:
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            ends[0].read(10, start + 0.4)
        assert time.monotonic() - start >= 0.4
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_write_that_is_read_late_is_complete(ends: tuple[TimedSocket, socket.socket]) -> None:
    ours, theirs = ends
    sent = bytes(range(256)) * 20_000
    got = bytearray()

    def read() -> None:
        while len(got) < len(sent):
            got.extend(theirs.recv(100_000))

    reader = threading.Thread(target=read)
    reader.start()
    ours.write(sent, time.monotonic() + PATIENCE)
    reader.join()
    assert got == sent


def test_a_write_that_nobody_reads_ends_at_its_deadline(ends: tuple[TimedSocket, socket.socket]) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[0].write(bytes(64_000_000), start + 0.2)
    assert time.monotonic() - start >= 0.2


def test_a_write_that_is_read_slowly_ends_at_its_deadline(ends: tuple[TimedSocket, socket.socket]) -> None:
    ours, theirs = ends
    ended = threading.Event()

    def sip() -> None:
        while not ended.is_set() and theirs.recv(4096):
            time.sleep(0.001)  # reads slowly

    reader = threading.Thread(target=sip)
    reader.start()
    try:
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            ours.write(bytes(64_000_000), start + 0.5)
        assert in_time(time.monotonic() - start, 5)
    finally:
        ended.set()
        ours.close()
        reader.join()


def test_a_late_write_is_tried_once(ends: tuple[TimedSocket, socket.socket]) -> None:
    ours, theirs = ends
    ours.write(b"still", time.monotonic() - 1)
    assert theirs.recv(10) == b"still"
