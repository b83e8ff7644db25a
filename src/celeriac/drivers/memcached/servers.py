"""The Memcached servers of a URL: each key is on one of them, whether or not that one can be reached.

The server of a key is that with the highest hash of server and key (rendezvous hashing), so that adding or removing a
server moves as few keys as possible. A key never moves because its server is down: another server would not know the
outcomes that the first one has, and would store a second final outcome of the same task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TypeVar

from celeriac.drivers.memcached.protocol import delete_all, get_all, store_all
from celeriac.drivers.peer import Peer, batches
from celeriac.errors import ImproperlyConfigured

__all__ = ["Servers"]

Item = TypeVar("Item")

PREFIX = re.compile(r"[!-~]{1,150}")  # a key has up to 250 bytes, and those of `KeyValueBackend` up to 71
MOST_KEYS = 100  # in one request that reads or deletes


class Servers:
    """The servers, and the prefix of Celeriac's keys on them. Raises `ImproperlyConfigured` if it cannot be one."""

    def __init__(self, peers: Sequence[Peer], prefix: str) -> None:
        if PREFIX.fullmatch(prefix) is None:
            raise ImproperlyConfigured(f"Keys of Memcached cannot begin with {prefix!r}: a prefix has 1 to 150 ASCII "
                                       "characters, and no spaces.")  # fmt: skip
        self.peers = peers
        self.prefix = prefix
        self._names = {f"{peer.host}:{peer.port}".encode(): peer for peer in peers}

    def get(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that exist."""
        found = {}
        cut = len(self.prefix) + 1
        for peer, asked in self._by_server((key, key) for key in keys):
            for start in range(0, len(asked), MOST_KEYS):
                part = [f"{self.prefix}:{key}" for key in asked[start : start + MOST_KEYS]]
                found.update({key[cut:]: value for key, value in get_all(peer, part).items()})
        return found

    def store(self, verb: str, items: Sequence[tuple[str, bytes]], expires: int) -> list[bool | None]:
        """`set` or `add` values. Return for each whether it was stored; None: it is larger than the server allows."""
        stored: list[bool | None] = [False] * len(items)
        for peer, places in self._by_server((key, place) for place, (key, _) in enumerate(items)):
            for part in batches([items[place][1] for place in places]):
                mine = places[part]
                sent = [(f"{self.prefix}:{items[place][0]}", items[place][1]) for place in mine]
                for place, done in zip(mine, store_all(peer, verb, sent, expires), strict=True):
                    stored[place] = done
        return stored

    def delete(self, keys: Sequence[str]) -> None:
        """Delete keys; those that do not exist are ignored."""
        for peer, mine in self._by_server((key, key) for key in keys):
            for start in range(0, len(mine), MOST_KEYS):
                delete_all(peer, [f"{self.prefix}:{key}" for key in mine[start : start + MOST_KEYS]])

    def server_of(self, key: str) -> Peer:
        """Return the server of a key."""
        end = b" " + key.encode()
        return self._names[max(self._names, key=lambda name: blake2b(name + end, digest_size=8).digest())]

    def _by_server(self, items: Iterable[tuple[str, Item]]) -> Iterator[tuple[Peer, list[Item]]]:
        """Group items, which come with their keys, by the server of the key."""
        if len(self.peers) == 1:
            yield self.peers[0], [item for _, item in items]
            return
        found: dict[Peer, list[Item]] = {}
        for key, item in items:
            found.setdefault(self.server_of(key), []).append(item)
        yield from found.items()

    def close(self) -> None:
        """Close the connections that no thread uses."""
        for peer in self.peers:
            peer.close()

    def __str__(self) -> str:
        return ", ".join(f"{peer.host}:{peer.port}" for peer in self.peers)
