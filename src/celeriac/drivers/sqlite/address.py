"""Which file a `sqlite:///` URL names."""

from __future__ import annotations

from urllib.parse import unquote

from celeriac.errors import ImproperlyConfigured

__all__ = ["path_of"]


def path_of(url: str) -> str:
    """Return the file that a URL names: `sqlite:///relative.db`, `sqlite:////absolute.db`.

    In the path, `%3F` is a question mark and `%25` a percent sign, as in all URLs; a `?` itself would begin options.
    """
    path, question, _ = url.partition("://")[2].removeprefix("/").partition("?")
    if question:
        raise ImproperlyConfigured(f"{url!r} has options after the `?`, and there are none. What can be set are "
                                   "`sqlite_synchronous` and `broker_publish_timeout`. A `?` in the path itself is "
                                   "written %3F.")  # fmt: skip
    path = unquote(path, errors="surrogateescape")
    if not path or path == ":memory:" or "\0" in path:
        raise ImproperlyConfigured(f"{url!r} names no file: write sqlite:///path/to/celeriac.db (or memory://).")
    return path
