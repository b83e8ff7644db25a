"""Outcomes in Memcached: on one server, or on several, each with a share of the keys.

The first final outcome stays because it is stored by `add`. Memcached deletes values when they expire, and earlier if
it needs their memory; so it keeps no workflows, whose counters must not be lost. `TyrantMemcachedBackend` is for Tokyo
Tyrant, which speaks Memcached's protocol and keeps all values for ever.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from celeriac.backends.key_value import KeyValueBackend
from celeriac.backends.stamped_values import StampedValues
from celeriac.drivers.memcached.protocol import expiry
from celeriac.drivers.memcached.servers import Servers
from celeriac.drivers.peer import Peer, hosts_of
from celeriac.errors import ImproperlyConfigured
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["MemcachedBackend", "TyrantMemcachedBackend", "connect"]

TYRANT = "tyrant+memcached"
PREFIX = re.compile(r"[!-~]{1,150}")  # a key has up to 250 bytes, and those of `KeyValueBackend` up to 71


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


class TyrantMemcachedBackend(StampedValues):
    """Outcomes in Tokyo Tyrant, by Memcached's protocol. It cannot list keys, so nothing deletes what is over."""

    def __init__(self, servers: Servers, clock: Clock, result_expires: float | None, codec: Codec) -> None:
        super().__init__(clock, result_expires, codec)
        self.servers = servers

    def read_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        return self.servers.get(keys)

    def put_many(self, items: Sequence[tuple[str, bytes]], new: bool, end: float) -> Sequence[bool | None]:
        return self.servers.store("add" if new else "set", items, 0)

    def delete_many(self, keys: Sequence[str]) -> None:
        self.servers.delete(keys)

    def close(self) -> None:
        self.servers.close()

    def __repr__(self) -> str:
        return f"<TyrantMemcachedBackend {self.servers}>"


def connect(
    url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
    prefix: str = "celeriac",
) -> MemcachedBackend | TyrantMemcachedBackend:  # fmt: skip
    """Return the backend of a `memcached://`, `cache+memcached://` or `tyrant+memcached://` URL."""
    if PREFIX.fullmatch(prefix) is None:
        raise ImproperlyConfigured(f"Keys of Memcached cannot begin with {prefix!r}: a prefix has 1 to 150 ASCII "
                                   "characters, and no spaces.")  # fmt: skip
    if url.partition("://")[0] == TYRANT:
        [(host, port), *others] = hosts_of(url, "Tokyo Tyrant", 1978)
        if others:
            raise ImproperlyConfigured("A tyrant+memcached:// URL names one server.")
        servers = Servers([Peer("Tokyo Tyrant", host, port, timeout)], prefix)
        return TyrantMemcachedBackend(servers, clock, result_expires, codec)
    peers = [Peer("Memcached", host, port, timeout) for host, port in hosts_of(url, "Memcached", 11211)]
    return MemcachedBackend(Servers(peers, prefix), clock, result_expires, codec)
