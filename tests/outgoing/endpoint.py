"""A server whose answers a test writes, byte by byte if need be."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

__all__ = ["SECRET", "Endpoint", "Received", "answering", "reply"]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Received(NamedTuple):
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int  # its number

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Script = Callable[[Received], bytes | None]
"""Returns an answer, or None to close the connection without one."""


def reply(status: int = 200, body: Any = None, **headers: str) -> bytes:
    """Return the bytes of an answer. A body that is no bytes becomes JSON; `retry_after=…` is a header."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    given = {"content-type": "application/json", "content-length": str(len(content)),
             **{name.replace("_", "-"): value for name, value in headers.items()}}  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status} Some Words\r\n{head}\r\n".encode() + content


class Endpoint:
    """The server. `script` may be replaced by a test; it gets each request, and may also use `connections`."""

    def __init__(self, host: str, context: ssl.SSLContext | None) -> None:
        self.script: Script = lambda request: reply(body={"result": None})
        self.received: list[Received] = []
        self.connections: list[socket.socket] = []
        self.closed = 0  # connections that the client has closed
        self._context = context
        self._host = host
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._arrived = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._context else 'http'}://{host}:{self.port}"

    def then(self, *answers: bytes | None) -> None:
        """Give these answers in turn, and the last one to all further requests."""
        left = list(answers)
        self.script = lambda request: left.pop(0) if len(left) > 1 else left[0]

    def drip(self, head: bytes, drop: bytes) -> None:
        """Answer slowly: with `head`, and then drop by drop until the client closes the connection."""

        def script(request: Received) -> None:
            self.connections[-1].sendall(head)
            while True:
                self.connections[-1].sendall(drop)
                time.sleep(0.02)  # how slow this server is

        self.script = script

    def wait(self, count: int, seconds: float) -> list[Received]:
        """Return the requests, once there are so many."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.received) >= count, seconds), f"{len(self.received)} came"
            return list(self.received)

    def wait_until_closed(self, count: int, seconds: float) -> None:
        """Wait until the client has closed so many connections."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.closed >= count, seconds), f"{self.closed} were closed"

    def end(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else the thread that accepts keeps it open
        self._listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection, len(self.connections)), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError, ValueError):  # the client has gone
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
                self.connections.append(connection)
            with connection, connection.makefile("rb") as stream:
                while (request := _read(stream, number)) is not None:
                    with self._arrived:
                        self.received.append(request)
                        self._arrived.notify_all()
                    answer = self.script(request)
                    if answer is None:
                        connection.shutdown(socket.SHUT_RDWR)
                        break
                    connection.sendall(answer)
        with self._arrived:
            self.closed += 1
            self._arrived.notify_all()


def _read(stream: Any, number: int) -> Received | None:
    start = stream.readline().decode().split()
    if not start:
        return None
    headers = {}
    while line := stream.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Received(start[0], start[1], headers, stream.read(int(headers.get("content-length", 0))), number)


@contextmanager
def answering(host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> Iterator[Endpoint]:
    endpoint = Endpoint(host, context)
    try:
        yield endpoint
    finally:
        endpoint.end()
