"""Sockets for the drivers of servers: TLS settings from the options of a URL, socket options, and deadlines."""

from __future__ import annotations

import math
import re
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from functools import partial

from celeriac.errors import ImproperlyConfigured

__all__ = ["TLS_OPTIONS", "TimedSocket", "acknowledging_quickly", "check_credentials", "distrust", "number",
           "port_number", "prepare", "tls_context"]  # fmt: skip

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS_OPTIONS = frozenset({*FILES, "ssl_check_hostname", "ssl_cert_reqs"})
"""The options of a URL that configure TLS; they have the names of redis-py's."""

OFF = frozenset({"0", "false", "no", "none", "off"})


def tls_context(options: Mapping[str, str], server: str) -> ssl.SSLContext:
    """Return the TLS settings for a server. Raises `ImproperlyConfigured` for unusable certificate files."""
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


def distrust(error: BaseException, server: str, url: str) -> str:
    """Say why the certificate of a server cannot be trusted, and what to do; an empty string for other errors.

    `server` names the server, `url` is the beginning of its URLs. Such an error does not end by itself, as an outage
    does.
    """
    if not isinstance(error, ssl.SSLCertVerificationError):
        return ""
    return (f"The certificate of {server} cannot be trusted: {error.verify_message}. Name the authority that signed "
            f"it: {url}…?ssl_ca_certs=/path/to/ca.crt")  # fmt: skip


def number(text: str, what: str) -> int:
    """Parse a number in a URL. Raises a `ValueError` that names the part (`what`)."""
    if not text.isdecimal():
        raise ValueError(f"the {what} {text!r} is not a number")
    return int(text)


def port_number(text: str) -> int:
    """Parse a port in a URL. Raises `ValueError` if there is no such port."""
    found = number(text, "port")
    if not 0 < found < 65536:
        raise ValueError(f"there is no port {found}")
    return found


def check_credentials(url: str) -> None:
    """Raise `ValueError` for a URL whose password has a character that ends it; the error shows no part of it."""
    rest = url.partition("://")[2]
    beginning = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if ":" in beginning and "@" not in beginning and "@" in rest:
        raise ValueError("a user or a password has one of / ? #, which must be written as %2F %3F %23")


def prepare(plain: socket.socket) -> None:
    """Set a TCP socket to send data at once, and to detect a peer that is gone without closing the connection."""
    if plain.family != socket.AF_UNIX:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def acknowledging_quickly(plain: socket.socket) -> Callable[[], object] | None:
    """Return what lets the system acknowledge the packets that it has received; to be called after each read.

    A server that does not set `TCP_NODELAY` sends the next packet after this one was acknowledged, which takes 40 ms.
    None where the system does not know the option.
    """
    if not hasattr(socket, "TCP_QUICKACK") or plain.family == socket.AF_UNIX:
        return None
    return partial(plain.setsockopt, socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class TimedSocket:
    """A connected socket whose reads and writes block until a deadline (of `time.monotonic`).

    Python's own time-out costs one more system call for each read and write, and one to set it; the kernel's starts
    again after every signal. So the socket itself is non-blocking, and `poll` waits for it.
    """

    def __init__(self, it: socket.socket) -> None:
        it.setblocking(False)
        self.socket = it
        self.plain = not isinstance(it, ssl.SSLSocket)
        self._readable = select.poll()
        self._readable.register(it, select.POLLIN)

    def read_nowait(self, size: int) -> bytes | None:
        """Return received data, at most so many bytes; b"" at the end of the stream; None if none has arrived yet."""
        try:
            return self.socket.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:  # TLS renews its keys; the next call continues
            return None

    def read(self, size: int, deadline: float) -> bytes:
        """Return received data as `read_nowait` does, but wait for it. Raises `TimeoutError`."""
        while True:
            if self.plain:  # TLS may have read and buffered data already
                _wait(self._readable, deadline)
            found = self.read_nowait(size)
            if found is not None:
                return found
            if not self.plain:
                _wait(self._readable, deadline)

    def write(self, data: bytes, deadline: float) -> None:
        """Send all data. Raises `TimeoutError`; part of the data may have been sent then."""
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

    def has_input(self) -> bool:
        """Return whether there is unread data, or the end of the stream."""
        return bool(self._readable.poll(0)) or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def _wait(poll: select.poll, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(math.ceil(left * 1000)):
        raise TimeoutError
