"""A local web site for the demonstration's crawler: hundreds of pages, some slow, some busy, some missing.

Runs as a separate process: `python -m celeriac.demo.site 400`. It prints its port on the first line, serves until its
stdin is closed (so that it never outlives its parent), and then prints the number of requests per page as JSON. The
site is fully determined by the number of pages, so that its parent knows what a crawler has to find.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

__all__ = ["START", "Site", "SitePage", "build", "reachable", "serve"]

START = "/page/0"
SEED = 20
BRANCHES = 3  # links of a page to pages further down the tree
ORPHANS = 25  # pages that no page links to


@dataclass
class SitePage:
    """A page and its behaviour."""

    links: list[str] = field(default_factory=list)
    delay: float = 0.0  # seconds before it answers
    busy: int = 0  # how many requests are answered with 503 first
    missing: bool = False  # always answered with 404


def build(count: int) -> dict[str, SitePage]:
    """Return a site of `count` reachable pages and a few unreachable ones; always the same for a given count."""
    chance = random.Random(SEED)  # noqa: S311 - not a secret
    pages = {f"/page/{n}": _page(chance, leads_on=n * BRANCHES + 1 < count) for n in range(count)}
    pages[START] = SitePage()
    names = list(pages)
    for number, page in enumerate(pages.values()):
        if not page.missing:
            below = names[number * BRANCHES + 1 : (number + 1) * BRANCHES + 1]
            page.links = below + chance.sample(names, min(3, count))
    orphans = {f"/orphan/{number}": SitePage(links=[START]) for number in range(ORPHANS)}
    return {**pages, **orphans}


def _page(chance: random.Random, leads_on: bool) -> SitePage:
    draw = chance.random()
    if draw < 0.10:
        return SitePage(delay=chance.uniform(0.2, 1.0))
    if draw < 0.20:
        return SitePage(delay=0.02, busy=chance.choice((1, 2)))
    if draw < 0.24 and not leads_on:  # the pages below a missing page would be unreachable
        return SitePage(missing=True)
    return SitePage(delay=chance.uniform(0.01, 0.08))


def reachable(pages: Mapping[str, SitePage], start: str = START) -> set[str]:
    """Return the pages that can be reached by links, including missing ones.

    >>> sorted(reachable({"a": SitePage(["b"]), "b": SitePage(missing=True), "c": SitePage()}, "a"))
    ['a', 'b']
    """
    found, waiting = {start}, [start]
    while waiting:
        for link in pages[waiting.pop()].links:
            if link not in found:
                found.add(link)
                waiting.append(link)
    return found


class Site:
    """The server: answers requests for pages, and counts them."""

    def __init__(self, pages: Mapping[str, SitePage]) -> None:
        self.pages = pages
        self.requests: Counter[str] = Counter()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close the connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            words = head.split(maxsplit=2)
            path = words[1].decode() if len(words) > 1 else ""
            writer.write(await self._response(path))
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # the client has gone, or does not speak HTTP
        finally:
            writer.close()

    async def _response(self, path: str) -> bytes:
        self.requests[path] += 1
        requests = self.requests[path]
        page = self.pages.get(path)
        if page is None or page.missing:
            return _response(404, "Not Found")
        await asyncio.sleep(page.delay)
        if requests <= page.busy:
            return _response(503, "Service Unavailable")
        links = "\n".join(f'<a href="{link}">{link}</a>' for link in page.links)
        return _response(200, "OK", f"<html><body>\n{links}\n</body></html>\n")


def _response(status: int, reason: str, body: str = "") -> bytes:
    return f"HTTP/1.0 {status} {reason}\r\nContent-Type: text/html\r\n\r\n{body}".encode()


async def serve(count: int) -> None:
    """Serve a site of `count` pages until stdin is closed."""
    site = Site(build(count))
    server = await asyncio.start_server(site.answer, "127.0.0.1", 0, backlog=512)
    async with server:
        _print(str(server.sockets[0].getsockname()[1]))
        await asyncio.to_thread(sys.stdin.read)
    _print(msgspec.json.encode(dict(site.requests)).decode())


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
