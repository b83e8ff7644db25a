"""Sockets as the drivers of servers want them: TLS by the options of a URL, what each is set to, how long they wait."""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections.abc import Mapping

from celeriac.errors import ImproperlyConfigured

__all__ = ["TLS_OPTIONS", "TimedSocket", "number", "prepare", "tls_context"]

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS_OPTIONS = frozenset({*FILES, "ssl_check_hostname", "ssl_cert_reqs"})
"""The options of a URL that say how TLS is spoken; they are redis-py's."""

OFF = frozenset({"0", "false", "no", "none", "off"})


def tls_context(options: Mapping[str, str], server: str) -> ssl.SSLContext:
    """Return how TLS is spoken with a kind of server. Raises `ImproperlyConfigured` for files that are no good."""
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if options.get("ssl_check_hostname", "true").lower() in OFF:
            context.check_hostname = False
        if options.get("ssl_cert_reqs", "required").lower() in OFF:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        files = ", ".join(f"{name}={options[name]}" for name in FILES if name in options)
        raise ImproperlyConfigured(
            f"The certificates that the {server} URL names cannot be used: {files} ({error}). Each must be a readable "
            "file in PEM format."
        ) from error
    return context


def number(text: str, what: str) -> int:
    """Return the number that a part of a URL is. Raises `ValueError`, which says what it should be."""
    if not text.isdecimal():
        raise ValueError(f"the {what} {text!r} is no number")
    return int(text)


def prepare(plain: socket.socket) -> None:
    """Send at once what is written, and notice a peer that has gone without a word."""
    if plain.family != socket.AF_UNIX:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class TimedSocket:
    """A connected socket whose reads and writes block until a deadline (of `time.monotonic`), and no longer.

    Python's own time-out costs one system call more for each of them, and one to set it; the kernel's begins anew after
    every signal. So the socket itself never blocks, and `poll` waits for it.
    """

    def __init__(self, it: socket.socket) -> None:
        it.setblocking(False)
        self.socket = it
        self.plain = not isinstance(it, ssl.SSLSocket)
        self._readable = select.poll()
        self._readable.register(it, select.POLLIN)

    def look(self, size: int) -> bytes | None:
        """Return what has come, at most so many bytes, and nothing (b"") at the end; None if nothing has yet."""
        try:
            return self.socket.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:  # a renewal of keys, the next look goes on with
            return None

    def read(self, size: int, deadline: float) -> bytes:
        """Do as `look`, but wait for it. Raises `TimeoutError`."""
        while True:
            if self.plain:  # else TLS may have read it already
                _wait(self._readable, deadline)
            found = self.look(size)
            if found is not None:
                return found
            if not self.plain:
                _wait(self._readable, deadline)

    def write(self, data: bytes, deadline: float) -> None:
        """Send all. Raises `TimeoutError`; how much was sent is not known then."""
        sent = self._send(data)
        while sent < len(data):
            writable = select.poll()
            writable.register(self.socket, select.POLLOUT)
            _wait(writable, deadline)
            sent += self._send(memoryview(data)[sent:])

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self.socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0

    def stirs(self) -> bool:
        """Say whether something has come that was not read, be it the end."""
        return bool(self._readable.poll(0)) or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def _wait(poll: select.poll, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(math.ceil(left * 1000)):
        raise TimeoutError
