"""Outcomes in Tokyo Tyrant, by Memcached's protocol, which it speaks without expiry: it keeps all values for ever."""

from __future__ import annotations

from collections.abc import Sequence

from celeriac.backends.stamped_values import StampedValues
from celeriac.drivers.memcached.servers import Servers
from celeriac.drivers.peer import Peer, host_of
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["TyrantMemcachedBackend", "connect"]


class TyrantMemcachedBackend(StampedValues):
    """Outcomes on one server. The protocol cannot list keys, so nothing deletes what is over."""

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


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None, codec: Codec = PLAIN_CODEC,
            prefix: str = "celeriac") -> TyrantMemcachedBackend:  # fmt: skip
    """Return the backend of a `tyrant+memcached://` URL."""
    host, port = host_of(url, "Tokyo Tyrant", 1978)
    servers = Servers([Peer("Tokyo Tyrant", host, port, timeout)], prefix)
    return TyrantMemcachedBackend(servers, clock, result_expires, codec)
