"""From a URL to a broker or a backend. Adapters, and the drivers behind them, are imported when first named."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from celeriac.errors import ImproperlyConfigured, nearest

if TYPE_CHECKING:
    from celeriac.config.settings import Settings
    from celeriac.model.clock import Clock
    from celeriac.ports.backend import Backend
    from celeriac.ports.broker import Broker

__all__ = ["REPLYING", "file_url", "open_backend", "open_broker"]

DRIVERS = {"sqlite": "sqlite", "memory": "memory", "redis": "redis", "rediss": "redis", "unix": "redis",
           "redis+sentinel": "redis", "amqp": "amqp", "amqps": "amqp"}  # fmt: skip
BROKERS = {scheme: f"celeriac.brokers.{driver}" for scheme, driver in DRIVERS.items()}
BACKENDS = {scheme: f"celeriac.backends.{driver}" for scheme, driver in DRIVERS.items()}
REPLYING = frozenset({"rpc", "amqp", "amqps"})
"""Backends that send each outcome to its caller."""
EXTRAS: dict[str, str] = {scheme: driver for scheme, driver in DRIVERS.items() if driver in ("redis", "amqp")}
"""Which extra brings the driver of a scheme: `pip install celeriac[redis]`."""


def file_url(path: str) -> str:
    """Return the URL of the embedded database at a path."""
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


def open_broker(url: str, settings: Settings, clock: Clock) -> Broker:
    """Return the broker of a URL; it connects on first use."""
    broker: Broker = _open("broker", BROKERS, url, settings, clock)
    return broker


def open_backend(url: str, broker_url: str, settings: Settings, clock: Clock) -> Backend:
    """Return the backend of a URL; it connects on first use. `rpc://` is on the broker's server."""
    if url.startswith("rpc:"):
        if broker_url.partition("://")[0] not in REPLYING:
            raise ImproperlyConfigured("rpc:// sends results through an AMQP broker, and `broker_url` names another. "
                                       "Leave `result_backend` out, and the broker holds them.")  # fmt: skip
        url = broker_url
    backend: Backend = _open("result backend", BACKENDS, url, settings, clock)
    return backend


def _open(kind: str, adapters: dict[str, str], url: str, settings: Settings, clock: Clock) -> Any:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in adapters:
        hint = nearest(scheme, adapters).replace("'?", "://'?")
        raise ImproperlyConfigured(f"No {kind} for {url!r}.{hint} "
                                   f"Known: {', '.join(f'{name}://' for name in sorted(adapters))}.")  # fmt: skip
    try:
        adapter = importlib.import_module(adapters[scheme])
    except ModuleNotFoundError as error:
        if scheme not in EXTRAS:
            raise
        raise ImproperlyConfigured(f"{url!r} needs a driver that is not installed ({error.name}): "
                                   f"pip install 'celeriac[{EXTRAS[scheme]}]'.") from error  # fmt: skip
    # Settings that begin with a driver's name are that driver's own.
    driver = DRIVERS[scheme] + "_"
    options = {name.removeprefix(driver): getattr(settings, name) for name in settings if name.startswith(driver)}
    return adapter.connect(url, clock=clock, timeout=settings.broker_publish_timeout,
                           result_expires=settings.result_expires, **options)  # fmt: skip
