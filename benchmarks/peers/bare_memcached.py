"""No task queue: values added with pymemcache, which sends one request and waits for its answer.

pymemcache has no `add` of many values. `set_many` sends a batch at once, and does not tell what was there before.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from pymemcache.client.base import Client

from benchmarks.peers.store_peer import URL, VALUE, StorePeer


class BareMemcached(StorePeer):
    """One connection."""

    title = "bare pymemcache"
    module = "pymemcache"
    packages = ("pymemcache",)
    settings = f"set_many of {len(VALUE)} bytes each, confirmed: a batch is sent at once"

    def __init__(self) -> None:
        self._client = Client(("127.0.0.1", urlsplit(URL).port or 11211), no_delay=True)

    def store(self, ids: Sequence[str]) -> int:
        failed = self._client.set_many({f"f:{id}": VALUE for id in ids}, expire=86400, noreply=False)
        return len(ids) - len(failed)


PEER = BareMemcached()
