"""Makes requests over HTTP, for the benchmarks of the HTTP API: a thread for each connection, which is kept alive."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["events", "load", "stay", "timed"]

MOST_SECONDS = 60.0
WARM_UP_SECONDS = 0.5
FOR_EVER = 86_400.0  # seconds
TELL_SECONDS = 0.2
FRAGMENT = re.compile('data-fragment="([^"]+)" data-topics="([^"]*)" data-every="([^"]*)" data-version="([^"]*)"')


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


def stay(port: int, paths: Sequence[str], told: Path) -> None:
    """Keep pages open for ever, and fetch their fragments when these change, as the script of the dashboard does."""
    pages = [_OpenPage(port, path) for path in paths]
    threads = [threading.Thread(target=page.stay, daemon=True) for page in pages]
    for thread in threads:
        thread.start()
    while True:
        counts = {"open": sum(page.is_open for page in pages), "fetched": sum(page.fetched for page in pages)}
        new = told.with_suffix(".new")
        new.write_text(json.dumps(counts))
        new.replace(told)
        time.sleep(TELL_SECONDS)


class _OpenPage:
    """A page of the dashboard that is open, in the tab of a reader of its own."""

    def __init__(self, port: int, path: str) -> None:
        self.is_open = False
        self.fetched = 0
        self._port, self._path = port, path
        self._headers = {"Accept": "text/html"}
        self._every: dict[str, float] = {}  # by fragment: seconds between two fetches
        self._versions: dict[str, str] = {}
        self._free_at: dict[str, float] = {}  # when it may be fetched again

    def stay(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=MOST_SECONDS)
        html = self._fetch(connection, self._path)
        live = re.search('data-live="([^"]+)"', html)
        assert live is not None
        topics_of = {name: topics.split() for name, topics, *_ in FRAGMENT.findall(html)}
        self._take(html)
        waiting: set[str] = set()
        for name, _, topics in events(self._port, live[1].replace("&amp;", "&"), FOR_EVER):
            self.is_open = True
            if name == "changed":
                waiting |= {one for one, about in topics_of.items() if not set(topics).isdisjoint(about)}
            due = [one for one in waiting if self._free_at.get(one, 0.0) <= time.monotonic()]
            for every in {self._every[one] for one in due}:
                self._refresh(connection, [one for one in due if self._every[one] == every])
            waiting.difference_update(due)

    def _refresh(self, connection: http.client.HTTPConnection, names: Sequence[str]) -> None:
        asked = "&".join(f"fragment={name}.{self._versions[name]}" for name in names)
        self._take(self._fetch(connection, f"{self._path}{'&' if '?' in self._path else '?'}{asked}"))
        self.fetched += len(names)
        now = time.monotonic()
        self._free_at |= {name: now + self._every[name] for name in names}

    def _take(self, html: str) -> None:
        for name, _, every, version in FRAGMENT.findall(html):
            self._every[name], self._versions[name] = float(every), version

    def _fetch(self, connection: http.client.HTTPConnection, path: str) -> str:
        connection.request("GET", path, headers=self._headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
        if cookie := answer.getheader("set-cookie"):
            self._headers["Cookie"] = cookie.partition(";")[0]
        return text


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
