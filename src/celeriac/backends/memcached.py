"""Outcomes in Memcached: on one server, or on several, each with a share of the keys.

The first final outcome stays because it is stored by `add`. Memcached deletes values when they expire, and earlier if
it needs their memory; so it keeps no workflows, whose counters must not be lost.
"""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.backends.key_value import KeyValueBackend
from celeriac.drivers.memcached.protocol import expiry
from celeriac.drivers.memcached.servers import Servers
from celeriac.drivers.peer import Peer, hosts_of
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["MemcachedBackend", "connect"]


class MemcachedBackend(KeyValueBackend):
    """Outcomes that expire, or that Memcached evicts, whatever is first."""

    def __init__(self, servers: Servers, clock: Clock, result_expires: float | None, codec: Codec) -> None:
        super().__init__(clock, result_expires, codec)
        self.servers = servers

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        return self.servers.get(keys)

    def set(self, key: str, value: bytes, expires: float | None) -> None:
        self.set_many([(key, value)], expires)

    def set_many(self, items: Sequence[tuple[str, bytes]], expires: float | None) -> Sequence[bool | None]:
        return self.servers.store("set", items, expiry(expires))

    def add(self, key: str, value: bytes, expires: float | None) -> bool:
        return bool(self.add_many([(key, value)], expires)[0])

    def add_many(self, items: Sequence[tuple[str, bytes]], expires: float | None) -> Sequence[bool | None]:
        return self.servers.store("add", items, expiry(expires))

    def delete_many(self, keys: Sequence[str]) -> None:
        self.servers.delete(keys)

    def close(self) -> None:
        self.servers.close()

    def __repr__(self) -> str:
        return f"<MemcachedBackend {self.servers}>"


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> MemcachedBackend:  # fmt: skip
    """Return the backend of a `memcached://` or `cache+memcached://` URL."""
    peers = [Peer("Memcached", host, port, timeout) for host, port in hosts_of(url, "Memcached", 11211)]
    return MemcachedBackend(Servers(peers, prefix), clock, result_expires, codec)
