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
    """The two ends of a connection: a `TimedSocket` and its peer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield TimedSocket(ours), theirs


def test_a_read_returns_received_data(ends: tuple[TimedSocket, socket.socket]) -> None:
    ours, theirs = ends
    assert ours.read_nowait(10) is None
    assert not ours.has_input()
    theirs.sendall(b"hello")
    assert ours.has_input()
    assert ours.read(10, time.monotonic() + PATIENCE) == b"hello"
    theirs.sendall(b"again")
    assert ours.read_nowait(10) == b"again"


def test_a_read_waits_for_data(ends: tuple[TimedSocket, socket.socket]) -> None:
    ours, theirs = ends
    late = threading.Timer(0.05, theirs.sendall, [b"late"])
    late.start()
    assert ours.read(10, time.monotonic() + PATIENCE) == b"late"
    late.join()


def test_a_read_returns_nothing_at_the_end_of_the_stream(ends: tuple[TimedSocket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.close()
    assert ours.has_input()
    assert ours.read(10, time.monotonic() + PATIENCE) == b""
    assert ours.read_nowait(10) == b""


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


def test_a_write_is_complete_although_the_peer_reads_late(ends: tuple[TimedSocket, socket.socket]) -> None:
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


def test_a_write_ends_at_its_deadline_if_the_peer_does_not_read(ends: tuple[TimedSocket, socket.socket]) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        ends[0].write(bytes(64_000_000), start + 0.2)
    assert time.monotonic() - start >= 0.2


def test_a_write_ends_at_its_deadline_if_the_peer_reads_slowly(ends: tuple[TimedSocket, socket.socket]) -> None:
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
