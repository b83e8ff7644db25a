"""The file of a `sqlite:///` URL."""

from __future__ import annotations

from urllib.parse import unquote

from celeriac.errors import ImproperlyConfigured

__all__ = ["path_of"]


def path_of(url: str) -> str:
    """Return the file of a URL: `sqlite:///relative.db`, `sqlite:////absolute.db`. Raises `ImproperlyConfigured`.

    In the path, `%3F` is a question mark and `%25` a percent sign, as in all URLs.
    """
    path, question, _ = url.partition("://")[2].removeprefix("/").partition("?")
    if question:
        raise ImproperlyConfigured(f"{url!r} has options after the `?`, but a SQLite URL takes none. Use the settings "
                                   "`sqlite_synchronous` and `broker_publish_timeout`. If the `?` belongs to the "
                                   "path, write %3F.")  # fmt: skip
    path = unquote(path, errors="surrogateescape")
    if not path or path == ":memory:" or "\0" in path:
        raise ImproperlyConfigured(f"{url!r} names no file: write sqlite:///path/to/celeriac.db (or memory://).")
    return path
