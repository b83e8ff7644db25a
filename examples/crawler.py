"""Coroutine tasks with retries that crawl a small local web site. Run it with

python examples/crawler.py
"""

from __future__ import annotations

import asyncio
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

from running import worker

from celeriac import Celeriac, group

PAGES = 40

app = Celeriac("crawler")


class Busy(Exception):
    """The site answered 503."""


@app.task(autoretry_for=(Busy, ConnectionError), retry_backoff=0.1, max_retries=5, time_limit=10)
async def links_of(url: str) -> list[str]:
    """Fetch a page and return its links."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET {parts.path} HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    if " 503 " in head.splitlines()[0]:
        raise Busy(url)
    return [urljoin(url, link) for link in re.findall(r'href="([^"]+)"', body)]


async def crawl(start: str) -> int:
    """Fetch all reachable pages, one group per layer of links; return their number."""
    seen, layer = {start}, [start]
    while layer:
        sent = await group(links_of.s(url) for url in layer).adelay()
        found = {link for links in await sent.aget(timeout=30) for link in links}
        layer = sorted(found - seen)
        seen |= found
        print(f"{len(seen)} pages known, {len(layer)} to fetch")
    return len(seen)


class Site(http.server.BaseHTTPRequestHandler):
    """Page n links to the pages 2n and 2n + 1; every seventh page answers its first request with 503."""

    requested: set[str] = set()

    def do_GET(self) -> None:
        """Answer a request."""
        number = int(self.path.strip("/") or 1)
        busy = number % 7 == 0 and self.path not in self.requested
        self.requested.add(self.path)
        links = [f'<a href="/{n}">{n}</a>' for n in (2 * number, 2 * number + 1) if n <= PAGES]
        self.send_response(503 if busy else 200)
        self.end_headers()
        self.wfile.write("".join(links).encode())

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


class Server(http.server.ThreadingHTTPServer):
    """A server that accepts many connections at once."""

    request_queue_size = 128


@contextmanager
def site() -> Iterator[str]:
    """Serve the site while the `with` block runs."""
    with Server(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/1"
        server.shutdown()


if __name__ == "__main__":
    with worker(app, children=1), site() as start:
        print(f"All {asyncio.run(crawl(start))} pages were fetched.")
