"""Redis: the fast broker for many machines. Keys and scripts: `celeriac.drivers.redis.keys`."""

from celeriac.brokers.redis.broker import RedisBroker, connect

__all__ = ["RedisBroker", "connect"]
