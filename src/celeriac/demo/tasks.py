"""The demonstration's app and its tasks, written as a user would write theirs.

    celeriac -A celeriac.demo.tasks worker

Two plain tasks read Python's standard library; one coroutine task fetches web pages. With its result, each returns the
process that ran it and the number of the delivery, so that the report can show what killing a child cost.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celeriac import Celeriac, current_request

__all__ = [
    "BROKER",
    "FileIndex",
    "Page",
    "PageBusyError",
    "PageMissingError",
    "Pairs",
    "app",
    "fetch_page",
    "index_file",
    "pair_words",
]

BROKER = "CELERIAC_DEMO_BROKER"
"""The environment variable with the broker's URL."""

# An empty environment, so that settings for another app do not redirect the demonstration.
app = Celeriac("demo", environ={}, broker_url=os.environ.get(BROKER, "sqlite:///celeriac-demo.db"))

WORD = re.compile(r"[a-z]{3,}")
LINK = re.compile(r'href="([^"]+)"')
STEP = 20  # files between two reports of progress


@dataclass
class FileIndex:
    """The index of one file."""

    lines: int
    definitions: int  # of functions and classes
    words: dict[str, int]
    pid: int
    delivery: int


@dataclass
class Pairs:
    """The most frequent pairs of neighbouring words in many files."""

    total: int
    top: list[tuple[str, int]]
    pid: int
    delivery: int


@dataclass
class Page:
    """A page that was fetched."""

    links: list[str]
    pid: int
    delivery: int


class PageBusyError(Exception):
    """The site is busy (503): retry."""


class PageMissingError(Exception):
    """There is no such page (404): do not retry."""


# --- The plain lane: one child, one task at a time ----------------------------------------------------


@app.task
def index_file(path: str) -> FileIndex:
    """Count a source file's lines, words, and definitions."""
    text = _read(path)
    words = Counter(WORD.findall(text.lower()))
    return FileIndex(text.count("\n"), _definitions(text), words, os.getpid(), _delivery())


@app.task(bind=True)
def pair_words(self: Any, paths: list[str]) -> Pairs:
    """Count pairs of neighbouring words in many files, and report progress."""
    pairs: Counter[tuple[str, str]] = Counter()
    for done, path in enumerate(paths):
        if done % STEP == 0:
            self.progress(done, len(paths), pid=os.getpid(), delivery=_delivery())
        pairs.update(pairwise(WORD.findall(_read(path).lower())))
    top = [(f"{left} {right}", count) for (left, right), count in pairs.most_common(3)]
    return Pairs(pairs.total(), top, os.getpid(), _delivery())


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


def _definitions(text: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escape sequences in the library's strings
        try:
            tree = ast.parse(text)
        except SyntaxError:
            return 0
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return sum(isinstance(node, kinds) for node in ast.walk(tree))


def _delivery() -> int:
    request = current_request()
    return request.deliveries if request is not None else 1


# --- The coroutine lane: one child, many tasks at a time ----------------------------------------------


@app.task(
    autoretry_for=(PageBusyError, ConnectionError), retry_backoff=0.2, retry_backoff_max=1.0, max_retries=5,
    time_limit=20,
)  # fmt: skip
async def fetch_page(url: str) -> Page:
    """Fetch a page and return its links."""
    status, body = await _get(url)
    if status == 503:
        raise PageBusyError(url)
    if status == 404:
        raise PageMissingError(url)
    return Page(LINK.findall(body), os.getpid(), _delivery())


async def _get(url: str) -> tuple[int, str]:
    """Return status and body of an HTTP/1.0 GET request; the server closes the connection after the body."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        await writer.drain()
        answer = (await reader.read()).decode()
    finally:
        writer.close()
    head, separator, body = answer.partition("\r\n\r\n")
    if not separator:
        raise ConnectionError(f"{url} sent no complete answer")
    return int(head.split()[1]), body
