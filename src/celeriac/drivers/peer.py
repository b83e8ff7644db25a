"""One server of a simple protocol: blocking connections that threads borrow, each for one request and its reply.

A driver brings the protocol: the bytes of a request, and a function that reads the reply from a `Stream`. `Peer` does
the rest: opening and reusing connections, time-outs, sending again, Celeriac's errors. `hosts_of` reads the servers of
a URL. Used by the drivers of Memcached and Tokyo Tyrant.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from celeriac.drivers.registry import Registry
from celeriac.drivers.sockets import TimedSocket, port_number, prepare
from celeriac.errors import BackendError, ImproperlyConfigured

__all__ = ["Garbled", "Peer", "Stream", "batches", "host_of", "hosts_of"]

Reply = TypeVar("Reply")

IDLE_CONNECTIONS = 64  # kept for the next threads
CHUNK = 262_144
LONGEST_LINE = 4096
SLOWEST = 1_000_000  # bytes in a second, that a connection is given time for
MOST_VALUES = 512  # in one request that stores …
MOST_BYTES = 4_194_304  # … and so many bytes, unless one value has more


class Garbled(ConnectionError):
    """The reply is not in the server's protocol."""


class Stream:
    """A connection, and what was received on it and not read yet. It is unusable after any error: close it."""

    def __init__(self, it: socket.socket) -> None:
        self.socket = TimedSocket(it)
        self.deadline = 0.0  # of all reading, by `time.monotonic`
        self._buffer = bytearray()
        self._read = 0  # so many bytes of it were taken

    def line(self) -> bytes:
        """Return the next line, without its end (CR LF). Raises `OSError`."""
        while (end := self._buffer.find(b"\r\n", self._read)) < 0:
            if len(self._buffer) - self._read > LONGEST_LINE:
                raise Garbled("a line without an end")
            self._fill()
        found = bytes(self._buffer[self._read : end])
        self._read = end + 2
        return found

    def lines(self, number: int) -> list[bytes]:
        """Return the next lines, without their ends. Raises `OSError`."""
        while (ends := self._buffer.count(b"\r\n", self._read)) < number:
            if len(self._buffer) - self._read > LONGEST_LINE * (ends + 1):
                raise Garbled("a line without an end")
            self._fill()
        *found, rest = bytes(self._buffer[self._read :]).split(b"\r\n", number)
        self._read = len(self._buffer) - len(rest)
        return found

    def take(self, size: int) -> bytes:
        """Return so many bytes. Raises `OSError`."""
        while len(self._buffer) - self._read < size:
            self._fill()
        found = bytes(self._buffer[self._read : self._read + size])
        self._read += size
        return found

    def _fill(self) -> None:
        if self._read > CHUNK:
            del self._buffer[: self._read]
            self._read = 0
        data = self.socket.read(CHUNK, self.deadline)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._buffer += data
        self.deadline += len(data) / SLOWEST

    def end_reply(self) -> None:
        """Note that a reply was read to its end. Raises `Garbled` if more was received."""
        if self._read < len(self._buffer):
            raise Garbled("it says more than it was asked")
        self._buffer.clear()
        self._read = 0

    def is_quiet(self) -> bool:
        """Return whether nothing has come since the last reply: neither data, nor the end of the connection."""
        return not self.socket.has_input()

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def __del__(self) -> None:
        if hasattr(self, "socket"):
            self.close()


class Peer:
    """A server, for all threads of this process, and those of a fork's child: it opens its own connections."""

    def __init__(self, kind: str, host: str, port: int, timeout: float) -> None:
        self.kind = kind  # "Memcached"
        self.host = host
        self.port = port
        self.timeout = timeout
        self._idle: list[Stream] = []
        _registry.know(self)

    def ask(self, request: bytes, read: Callable[[Stream], Reply]) -> Reply:
        """Send a request; return what `read` makes of the reply.

        If an open connection turns out to be lost, the request is sent once more, on a new one: it must not matter if
        it is carried out twice. Raises `BackendError`, at the latest after the time-out, and one second more for each
        megabyte that was sent and received.
        """
        deadline = time.monotonic() + self.timeout + len(request) / SLOWEST
        try:
            if (stream := self._open()) is not None:
                try:
                    return self._exchange(stream, request, read, deadline)
                except OSError as error:
                    if isinstance(error, Garbled) or _is_our_limit(error):
                        raise
                    self.close()  # the server was restarted: the others are lost too
            return self._exchange(self._connect(deadline), request, read, deadline)
        except OSError as error:
            raise self._trouble(error) from error

    def refused(self, reply: bytes) -> BackendError:
        """Return the error for a reply that says that the request failed."""
        return BackendError(f"{self} refused a request: {reply.decode(errors='replace')}.")

    def _exchange(self, stream: Stream, request: bytes, read: Callable[[Stream], Reply], deadline: float) -> Reply:
        try:
            stream.deadline = deadline
            stream.socket.write(request, deadline)
            reply = read(stream)
            stream.end_reply()
        except BaseException:  # the exception of a time limit may come between a request and its reply
            stream.close()
            raise
        if len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(stream)
        else:
            stream.close()
        return reply

    def _open(self) -> Stream | None:
        """Return an open connection that is fit for use, if there is one."""
        while True:
            try:
                stream = self._idle.pop()
            except IndexError:
                return None
            if stream.is_quiet():
                return stream
            stream.close()

    def _connect(self, deadline: float) -> Stream:
        opened = socket.create_connection((self.host, self.port), max(0.01, deadline - time.monotonic()))
        try:
            prepare(opened)
            return Stream(opened)
        except BaseException:
            opened.close()
            raise

    def _trouble(self, error: OSError) -> BackendError:
        if isinstance(error, Garbled):
            return BackendError(f"The server at {self.host}:{self.port} does not speak the protocol of {self.kind} "
                                f"({error}). Name the port of a {self.kind} server in `result_backend`.")  # fmt: skip
        if _is_our_limit(error):
            return BackendError(f"{self} did not answer within {self.timeout:g} s (`broker_publish_timeout`).")
        return BackendError(f"{self} cannot be reached: {error}. Is it running? `nc -vz {self.host} {self.port}`")

    def close(self) -> None:
        """Close the connections that no thread uses."""
        idle, self._idle = self._idle, []
        for stream in idle:
            stream.close()

    def forget(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self.close()  # closes this process's copies of their sockets; the parent's stay open

    def __str__(self) -> str:
        return f"{self.kind} at {self.host}:{self.port}"


_registry: Registry[Peer] = Registry(Peer)


def _is_our_limit(error: OSError) -> bool:
    """Return whether Celeriac's time-out ended the wait; otherwise the kernel gave up the connection (ETIMEDOUT)."""
    return isinstance(error, TimeoutError) and error.errno is None


def batches(values: Sequence[bytes]) -> Iterator[slice]:
    """Yield which values to send in one request each."""
    start = size = 0
    for place, value in enumerate(values):
        if place > start and (place - start == MOST_VALUES or size + len(value) > MOST_BYTES):
            yield slice(start, place)
            start, size = place, 0
        size += len(value)
    if start < len(values):
        yield slice(start, len(values))


def hosts_of(url: str, kind: str, port: int) -> list[tuple[str, int]]:
    """Return the servers that a URL names, separated by `,` or (as in Celery) by `;`. Raises `ImproperlyConfigured`.

    >>> hosts_of("memcached://a,b:1234/", "Memcached", 11211)
    [('a', 11211), ('b', 1234)]
    """
    scheme, _, rest = url.partition("://")
    example = f"write {scheme}://host:{port}"
    if "@" in rest:
        raise ImproperlyConfigured(f"The {kind} URL has a user or a password, which {kind} cannot check: {example}.")
    beginning = rest.removesuffix("/")
    if any(sign in beginning for sign in "/?#"):
        raise ImproperlyConfigured(f"The {kind} URL has a path or options, and takes none: {example}.")
    try:
        found = [_host(part.strip(), port) for part in beginning.replace(";", ",").split(",")]
    except ValueError as error:
        raise ImproperlyConfigured(f"The {kind} URL cannot be read ({error}): {example}.") from error
    if len(set(found)) < len(found):
        raise ImproperlyConfigured(f"The {kind} URL names a server twice.")
    return found


def host_of(url: str, kind: str, port: int) -> tuple[str, int]:
    """Return the one server that a URL names. Raises `ImproperlyConfigured`."""
    found, *others = hosts_of(url, kind, port)
    if others:
        raise ImproperlyConfigured(f"A {url.partition('://')[0]}:// URL names one server.")
    return found


def _host(text: str, default: int) -> tuple[str, int]:
    host = urlsplit(f"//{text}").hostname  # in lower case: all processes must name a server alike
    if not host:
        raise ValueError("a server has no name")
    port = text.rpartition("]")[2].partition(":")[2]
    return host, port_number(port) if port else default
