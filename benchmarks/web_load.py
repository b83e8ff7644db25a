"""Makes requests over HTTP, for the benchmarks of the HTTP API: a thread for each connection, which is kept alive."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

__all__ = ["events", "load", "timed"]

MOST_SECONDS = 60.0
WARM_UP_SECONDS = 0.5


def timed(port: int, paths: Callable[[Callable[[str], str]], Sequence[str]], times: int) -> dict[str, list[float]]:
    """Return the seconds of pages, each fetched so many times on one connection, as by a browser.

    `paths` is called with a function that fetches a page, for addresses that are on other pages. The page at `/` is
    timed before, once: as the first page of the server.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MOST_SECONDS)
    headers = {"Accept": "text/html"}

    def fetch(path: str) -> str:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
        if cookie := answer.getheader("set-cookie"):
            headers["Cookie"] = cookie.partition(";")[0]
        return text

    def seconds(path: str) -> float:
        start = time.perf_counter()
        fetch(path)
        return time.perf_counter() - start

    first = seconds("/")
    return {"(first)": [first], **{path: [seconds(path) for _ in range(times)] for path in paths(fetch)}}


def load(port: int, request: tuple[str, str, bytes], connections: int, seconds: float) -> dict[str, Any]:
    """Repeat a request on some connections for a time; return how many were answered, and the seconds of each."""
    data, begin = _bytes(*request), time.perf_counter() + WARM_UP_SECONDS
    times: list[list[float]] = [[] for _ in range(connections)]
    faults: list[Exception] = []

    def ask(mine: list[float]) -> None:
        try:
            with _Connection(port) as connection:
                while (start := time.perf_counter()) < begin + seconds:
                    connection.ask(data)
                    if start >= begin:
                        mine.append(time.perf_counter() - start)
        except Exception as error:  # noqa: BLE001 - raised again by the caller
            faults.append(error)

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    took = [one for mine in times for one in mine]
    return {"count": len(took), "seconds": seconds, "rate": len(took) / seconds, "times": took}


def events(port: int, path: str, seconds: float) -> Iterator[tuple[str, str, Any]]:
    """Yield server-sent events as they come, for a time: name, id, data."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(_bytes("GET", path, b""))
        name = id = ""
        deadline = time.monotonic() + seconds
        with connection.makefile("rb") as lines, suppress(TimeoutError):
            while time.monotonic() < deadline:
                field, _, value = lines.readline().decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "id":
                    id = value
                elif field == "data":
                    yield name, id, json.loads(value)


def _bytes(method: str, path: str, body: bytes) -> bytes:
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if method == "POST" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{kind}\r\n".encode() + body


class _Connection:
    """A connection, kept alive."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=MOST_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, data: bytes) -> None:
        """Make a request, and read its answer. Raises `ValueError` if that is not a success."""
        self._socket.sendall(data)
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._receive()
        head = received[:end].lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        left = length - (len(received) - end - 4)
        while left > 0:
            left -= len(self._receive())
        if not head.startswith((b"http/1.1 200", b"http/1.1 202")):
            raise ValueError(f"{data[:100]!r} was answered by {received[:500]!r}")

    def _receive(self) -> bytes:
        part = self._socket.recv(65_536)
        if not part:
            raise ValueError("the server has closed the connection")
        return part

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *raised: object) -> None:
        self._socket.close()
