"""Which file a `sqlite:///` URL names."""

from __future__ import annotations

from celeriac.errors import ImproperlyConfigured

__all__ = ["path_of"]


def path_of(url: str) -> str:
    """Return the file that a URL names: `sqlite:///relative.db`, `sqlite:////absolute.db`."""
    path = url.partition("://")[2].removeprefix("/").partition("?")[0]
    if not path or path == ":memory:":
        raise ImproperlyConfigured(f"{url!r} names no file: write sqlite:///path/to/celeriac.db (or memory://).")
    return path
