"""The Redis broker, for many machines. Its keys and scripts are listed in `celeriac.drivers.redis.keys`."""

from celeriac.brokers.redis.broker import RedisBroker, connect

__all__ = ["RedisBroker", "connect"]
