"""The adapters of Celeriac itself, by the scheme of their URLs. Pure: `connections.py` imports and opens them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from celeriac.config import adapters

__all__ = ["BACKEND", "BROKER", "NOTIFYING", "REPLYING", "RPC", "BuiltIn", "Kind"]


class BuiltIn(NamedTuple):
    """An adapter of this package."""

    module: str
    driver: str  # the settings that begin with its name and `_` are the adapter's
    extra: str | None = None  # installs the driver: `pip install 'celeriac[redis]'`


class Kind(NamedTuple):
    """What brokers and backends are called, and where they are found."""

    name: str
    setting: str
    group: str
    built_in: Mapping[str, BuiltIn]
    families: Mapping[str, BuiltIn] = {}  # by the beginning of a scheme; the first that fits counts

    def adapter(self, scheme: str) -> BuiltIn | None:
        """Return the built-in adapter of a scheme."""
        found = (adapter for beginning, adapter in self.families.items() if scheme.startswith(beginning))
        return self.built_in.get(scheme) or next(found, None)

    def schemes(self) -> dict[str, BuiltIn]:
        """Return the built-in adapters by scheme, of a family those that have a name."""
        return {**self.built_in, **{name: found for name, found in self.families.items() if name[-1] != "+"}}


def _schemes(package: str) -> dict[str, BuiltIn]:
    redis = BuiltIn(f"{package}.redis", "redis", "redis")
    amqp = BuiltIn(f"{package}.amqp", "amqp", "amqp")
    amqp10 = BuiltIn(f"{package}.amqp10", "amqp10", "amqp10")
    hub = BuiltIn(f"{package}.zmq", "zmq", "zmq")
    return {
        "sqlite": BuiltIn(f"{package}.sqlite", "sqlite"),
        "memory": BuiltIn(f"{package}.memory", "memory"),
        **dict.fromkeys(("redis", "rediss", "unix", "redis+sentinel"), redis),
        **dict.fromkeys(("amqp", "amqps"), amqp),
        **dict.fromkeys(("stomp", "stomps"), BuiltIn(f"{package}.stomp", "stomp")),
        **dict.fromkeys(("amqp10", "amqps10"), amqp10),
        **dict.fromkeys(("zmq", "zmq+ipc"), hub),
    }


SQL = {
    "db+postgresql": "postgresql", "db+mysql": "mysql", "db+mariadb": "mysql", "db+oracle": "oracle",
    "db+sqlite": "sqlalchemy", "db+": "sqlalchemy",
}  # fmt: skip
"""The extras of databases: a scheme may go on with the name of a driver, and may name any that SQLAlchemy knows."""

BROKER = Kind("broker", "broker_url", adapters.BROKERS, _schemes("celeriac.brokers"))
BACKEND = Kind("result backend", "result_backend", adapters.BACKENDS, {
    **_schemes("celeriac.backends"),
    **dict.fromkeys(("mongodb", "mongodb+srv"), BuiltIn("celeriac.backends.mongodb", "mongodb", "mongodb")),
    "memcached": BuiltIn("celeriac.backends.memcached", "memcached"),
    "cache+memcached": BuiltIn("celeriac.backends.memcached", "memcached"),  # as in Celery
    "tyrant": BuiltIn("celeriac.backends.tyrant", "tyrant"),
    "tyrant+memcached": BuiltIn("celeriac.backends.tyrant_memcached", "tyrant"),
    "django-db": BuiltIn("celeriac.contrib.django.db.backend", "django", "django-db"),
}, {name: BuiltIn("celeriac.backends.sql", "sql", extra) for name, extra in SQL.items()})  # fmt: skip

RPC = "rpc"
REPLYING = frozenset({RPC, "amqp", "amqps", "amqp10", "amqps10", "stomp", "stomps"})
"""Built-in backends that send each outcome to its caller."""
NOTIFYING = frozenset({"sqlite", "memory", "redis", "rediss", "unix", "redis+sentinel", "zmq", "zmq+ipc"})
"""Built-in backends that notify the callers in all processes."""
