"""No task queue: the time that ZeroMQ and the kernel take by themselves, the upper bound for `delay()` over a hub.

A ROUTER in a process of its own answers each message, and has CURVE, as the hub. Each thread has a DEALER.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import cached_property
from typing import Any

import zmq

from benchmarks.peers.base import Peer

BODY = b"x" * 150  # about the length of a request that sends a message
ANSWER = b"x" * 10
MODULE = "benchmarks.peers.bare_zmq"


class BareZMQ(Peer):
    """Asks, and waits for the answer."""

    title = "bare ZeroMQ"
    module = "zmq"
    packages = ("pyzmq",)
    settings = f"no task queue and no file: {len(BODY)} bytes and an answer, ROUTER and DEALER, TCP, CURVE"

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._local = threading.local()
        self._keys = zmq.curve_keypair()

    @cached_property
    def _server(self) -> tuple[str, bytes]:
        """Start the server, which ends with this process; return its endpoint and key."""
        self._process = subprocess.Popen([sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        endpoint, key = self._process.stdout.readline().split()
        return endpoint.decode(), key

    def _socket(self) -> zmq.Socket[bytes]:
        found: zmq.Socket[bytes] | None = getattr(self._local, "socket", None)
        if found is None:
            endpoint, server_key = self._server
            found = self._local.socket = self._context.socket(zmq.DEALER)
            found.linger = 0
            found.curve_publickey, found.curve_secretkey = self._keys
            found.curve_serverkey = server_key
            found.connect(endpoint)
        return found

    def send(self, count: int) -> None:
        socket = self._socket()
        for _ in range(count):
            socket.send(BODY)
            socket.recv()

    def roundtrip(self, timeout: float) -> Any:
        raise NotImplementedError

    def completed(self) -> int:
        raise NotImplementedError

    def worker(self, children: int, tuned: bool) -> list[str]:
        raise NotImplementedError


PEER = BareZMQ()


def serve() -> None:
    """Answer until standard input is closed."""
    public, secret = zmq.curve_keypair()
    router = zmq.Context().socket(zmq.ROUTER)
    router.curve_server, router.curve_secretkey = True, secret
    port = router.bind_to_random_port("tcp://127.0.0.1")
    print(f"tcp://127.0.0.1:{port}", public.decode(), flush=True)
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    poller.register(sys.stdin, zmq.POLLIN)
    while sys.stdin.fileno() not in dict(poller.poll()):
        try:
            while True:
                identity = router.recv(zmq.NOBLOCK)
                router.recv(zmq.NOBLOCK)
                router.send(identity, zmq.SNDMORE)
                router.send(ANSWER)
        except zmq.Again:
            pass


if __name__ == "__main__":
    serve()
