"""Sockets as the drivers of servers want them: TLS by the options of a URL, what each is set to, how long they wait."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping

from celeriac.errors import ImproperlyConfigured

__all__ = ["TLS_OPTIONS", "WaitLimit", "prepare", "tls_context"]

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS_OPTIONS = frozenset({*FILES, "ssl_check_hostname", "ssl_cert_reqs"})
"""The options of a URL that say how TLS is spoken; they are redis-py's."""

OFF = frozenset({"0", "false", "no", "none", "off"})
SHARE = 0.9  # of what is left is the limit that is set …
LEAST_SHARE, ENOUGH_SECONDS = 0.8, 1.0  # … and it stays while it is so much of it, or so long


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


def prepare(plain: socket.socket) -> None:
    """Send at once what is written, and notice a peer that has gone without a word."""
    if plain.family != socket.AF_UNIX:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class WaitLimit:
    """How long the reads and writes of a blocking socket may wait.

    The kernel keeps the time: Python's own time-out would cost another system call for each of them. What has waited so
    long raises `BlockingIOError`, or, with TLS, `TimeoutError`. To set a limit costs system calls too: `fit` leaves one
    that will do, and whoever meets it looks at the clock.
    """

    def __init__(self, it: socket.socket) -> None:
        self._socket = it
        self._seconds = 0.0

    def set(self, seconds: float) -> None:
        """Let a wait last so long, and no longer."""
        self._seconds = seconds
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(seconds)
            return
        self._socket.settimeout(None)
        limit = struct.pack("@ll", int(seconds), max(1, int(seconds % 1 * 1e6)))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def fit(self, left: float) -> None:
        """Let no wait be longer than what is left (seconds), but perhaps shorter."""
        shortest = min(LEAST_SHARE * left, ENOUGH_SECONDS)
        if not shortest <= self._seconds <= left or self._socket.gettimeout() == 0.0:
            self.set(SHARE * left)
