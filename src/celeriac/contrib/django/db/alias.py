"""What a `django-db://` URL names: a database of Django's setting DATABASES, by its alias."""

from __future__ import annotations

from typing import Final

from django.db import connections
from django.utils.connection import ConnectionDoesNotExist

from celeriac.errors import ImproperlyConfigured, nearest

__all__ = ["SCHEME", "alias_of"]

SCHEME: Final = "django-db"
DEFAULT: Final = "default"


def alias_of(url: str) -> str:
    """Return the alias of a `django-db://alias` URL. Raises `ImproperlyConfigured`.

    >>> alias_of("django-db://"), alias_of("django-db://reporting")
    ('default', 'reporting')
    """
    alias, _, rest = url.partition("://")[2].partition("/")
    if rest or "?" in alias or "@" in alias:
        raise ImproperlyConfigured(f"{url!r} has more than an alias of Django's DATABASES, where all options of a "
                                   f"database are: write {SCHEME}://{DEFAULT}.")  # fmt: skip
    alias = alias or DEFAULT
    try:
        connections[alias]
    except ConnectionDoesNotExist:
        raise ImproperlyConfigured(f"Django's DATABASES has no {alias!r}.{nearest(alias, connections)} "
                                   f"{SCHEME}://{DEFAULT} is the default one.") from None  # fmt: skip
    return alias
