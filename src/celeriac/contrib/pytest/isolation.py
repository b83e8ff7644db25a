"""Puts an app on a broker of its own for the length of a test, and back again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from celeriac.app.app import Celeriac
from celeriac.contrib.pytest.clock import VirtualClock
from celeriac.drivers.memory import forget
from celeriac.model.message import new_id

__all__ = ["isolated", "on_servers"]

LEASE_SECONDS: Final = 315_360_000.0  # ten years: no leap of the virtual clock ends the lease of a worker
SETTINGS: Final[Mapping[str, Any]] = {
    "broker_delays": "auto", "history_url": None, "task_always_eager": False, "worker_lease_seconds": LEASE_SECONDS,
}  # fmt: skip


@contextmanager
def isolated(app: Celeriac, settings: Mapping[str, Any] | None = None) -> Iterator[VirtualClock]:
    """Put an app on a memory broker of its own, with a virtual clock and these settings, for as long as a block lasts.

    Then the app is as it was before, without open connections.
    """
    name = f"test-{new_id()}"
    clock, before = VirtualClock(app), app.clock
    values = {**SETTINGS, "broker_url": f"memory://{name}", "result_backend": None, **(settings or {})}
    with on_servers(app, values):
        app.clock = clock
        try:
            yield clock
        finally:
            app.clock = before
    forget(name)


@contextmanager
def on_servers(app: Celeriac, values: Mapping[str, Any]) -> Iterator[None]:
    """Give an app other settings for as long as a block lasts; it opens its connections anew in it, and after it."""
    before = {name: getattr(app.conf, name) for name in values}
    app.close()
    try:
        for name, value in values.items():
            setattr(app.conf, name, value)
        yield
    finally:
        app.close()
        for name, value in before.items():
            setattr(app.conf, name, value)
