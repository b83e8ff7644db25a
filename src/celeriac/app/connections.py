"""Opens brokers and backends by their URLs.

Called by the app, which gets an object that connects on first use. An adapter, and the driver behind it, is imported
when a URL first names it. `schemes.py` lists Celeriac's own. Those of other packages are found by their entry points
(config/adapters.py), which are searched only for schemes that are not listed there.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeriac.app.schemes import BACKEND, BROKER, NOTIFYING, REPLYING, RPC, BuiltIn, Kind
from celeriac.config import adapters
from celeriac.config.settings import received_max_bytes
from celeriac.errors import ImproperlyConfigured, nearest
from celeriac.lazy import LazyModule
from celeriac.model.codec import codec_of
from celeriac.model.masks import masked
from celeriac.ports.abilities import Ability

if TYPE_CHECKING:
    from celeriac.config.settings import Settings
    from celeriac.model import keys
    from celeriac.model.clock import Clock
    from celeriac.ports import history as history_port
    from celeriac.ports.backend import Backend
    from celeriac.ports.broker import Broker
    from celeriac.ports.history import History
else:
    keys = LazyModule("celeriac.model.keys")
    history_port = LazyModule("celeriac.ports.history")

__all__ = ["file_url", "history_of", "needs_notices", "open_backend", "open_broker", "sends_notices", "sends_outcomes",
           "shown"]  # fmt: skip

FILE = "sqlite:///"


def file_url(path: str) -> str:
    """Return the URL of the embedded database at a path."""
    return FILE + _escaped(path)


def _escaped(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3F")


def shown(url: str) -> str:
    """Return a URL as people should see it: without passwords, and with the whole path of a database file."""
    if not url.startswith(FILE):
        return str(masked(url))
    return FILE + os.path.normpath(os.path.join(_escaped(os.getcwd()), url.removeprefix(FILE)))


def open_broker(url: str, settings: Settings, clock: Clock) -> Broker:
    """Return the broker of a URL. Raises `ImproperlyConfigured` for an unknown scheme or a missing driver."""
    broker: Broker = _open(BROKER, BACKEND, url, settings, clock)
    return broker


def open_backend(url: str, broker_url: str, settings: Settings, clock: Clock) -> Backend:
    """Return the backend of a URL; `rpc://` is on the broker's server. Raises as `open_broker` does."""
    if _scheme(url) == RPC:
        if _scheme(broker_url) not in REPLYING:
            raise ImproperlyConfigured("rpc:// sends results through an AMQP or STOMP broker, and `broker_url` names "
                                       "another one. Leave `result_backend` out: the broker keeps them.")  # fmt: skip
        url = broker_url
    backend: Backend = _open(BACKEND, BROKER, url, settings, clock)
    return backend


def history_of(backend: Backend, url: str | None) -> History | None:
    """Return the history that a backend keeps, or None. Raises `ImproperlyConfigured` if `history_url` names it."""
    if isinstance(backend, history_port.HistoryKeeper):
        return backend.history()
    if url is not None:
        raise ImproperlyConfigured(f"{shown(url)!r} keeps no history. Set `history_url` to a store that does: "
                                   "sqlite:///path/to.db, redis://…, zmq://…, db+postgresql://…, "
                                   "mongodb://….")  # fmt: skip
    return None


def sends_outcomes(url: str, backend: Callable[[], Backend]) -> bool:
    """Return whether the backend of a URL sends outcomes to their callers. `backend` opens it, if it must be asked."""
    scheme = _scheme(url)
    if scheme == RPC or BACKEND.adapter(scheme) is not None:
        return scheme in REPLYING
    return not backend().can(Ability.KEEP_OUTCOMES)


def sends_notices(url: str, backend: Callable[[], Backend]) -> bool:
    """Return whether workers tell callers what the backend of a URL has stored. `backend` opens it, if need be.

    A caller that only sends tasks shall not have to import the driver of a backend.
    """
    scheme = _scheme(url)
    if scheme == RPC or BACKEND.adapter(scheme) is not None:
        return scheme not in REPLYING and scheme not in NOTIFYING
    return needs_notices(backend())


def needs_notices(backend: Backend) -> bool:
    """Return whether a backend keeps outcomes and cannot notify the callers in other processes."""
    return backend.can(Ability.KEEP_OUTCOMES) and not backend.can(Ability.NOTIFY)


def _scheme(url: str) -> str:
    return url.partition("://")[0]


def _open(kind: Kind, other: Kind, url: str, settings: Settings, clock: Clock) -> Any:
    scheme = _scheme(url) if "://" in url else ""
    if (built_in := kind.adapter(scheme)) is not None:
        connect, own = _built_in(url, built_in, settings)
    elif scheme in (found := adapters.installed(kind.group)):
        adapter = adapters.load(found[scheme])
        connect, own = adapter.connect, list(adapter.settings)
    else:
        raise _unknown(kind, other, url, scheme, settings)
    options = {name.partition("_")[2]: getattr(settings, name) for name in own}
    codec = codec_of(tuple(keys.parse_key(key) for key in settings.security_keys), str(options.get("prefix", "")),
                     settings.security_encrypt, settings.security_accept_unsigned,
                     received_max_bytes(settings))  # fmt: skip
    port = connect(url, clock=clock, timeout=settings.broker_publish_timeout,
                   result_expires=settings.result_expires, codec=codec, **options)  # fmt: skip
    if port.codec is not codec and codec.signs:
        raise ImproperlyConfigured(f"The {kind.name} for {scheme}:// does not sign what it stores, and `security_keys` "
                                   "demands it. Use another one, or upgrade it.")  # fmt: skip
    return port


def _built_in(url: str, adapter: BuiltIn, settings: Settings) -> tuple[Any, list[str]]:
    """Return the `connect` of a built-in adapter, and the names of its settings."""
    try:
        module = importlib.import_module(adapter.module)
    except ModuleNotFoundError as error:
        if adapter.extra is None:
            raise
        raise ImproperlyConfigured(f"{masked(url)!r} needs a driver that is not installed ({error.name}): "
                                   f"pip install 'celeriac[{adapter.extra}]'.") from error  # fmt: skip
    return module.connect, [name for name in settings if name.startswith(f"{adapter.driver}_")]


def _unknown(kind: Kind, other: Kind, url: str, scheme: str, settings: Settings) -> ImproperlyConfigured:
    """Return the error for a URL that no adapter opens."""
    if scheme == RPC or other.adapter(scheme) is not None or scheme in adapters.installed(other.group):
        return ImproperlyConfigured(f"No {kind.name} for {masked(url)!r}: {scheme}:// is only a {other.name}. "
                                    f"Set `{kind.setting}` to another URL.")  # fmt: skip
    if kind is BACKEND and url == settings.broker_url:
        kind = BROKER  # results are kept there unless `result_backend` is set
    schemes = sorted({*kind.schemes(), *adapters.installed(kind.group)})
    hint = nearest(scheme or url.partition(":")[0], schemes)
    extra = next((found.extra for name, found in kind.schemes().items() if f"'{name}'" in hint), None)
    hint = hint.replace("'?", "://'?") + (f" It needs: pip install 'celeriac[{extra}]'." if extra else "")
    if not scheme and not hint:
        hint = " A URL begins with a scheme, as in redis://localhost:6379/0."
    return ImproperlyConfigured(f"No {kind.name} for {masked(url)!r}, which is the setting `{kind.setting}`.{hint} "
                                f"Known: {', '.join(f'{name}://' for name in schemes)}.")  # fmt: skip
