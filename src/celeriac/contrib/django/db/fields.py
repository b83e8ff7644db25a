"""Fields and managers of the models: ids and states as the tables keep them, in the database that `django-db://` names.

`models.py` and `periodic.py` use them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, models
from django.utils import timezone

from celeriac.contrib.django.db.alias import SCHEME, alias_of
from celeriac.drivers.sql.keys import is_hash, key, state_key
from celeriac.lazy import LazyModule
from celeriac.tasks.current_app import current_app

if TYPE_CHECKING:
    from celeriac.contrib.django.db import backend as sql_backend
else:  # with SQLAlchemy, which most commands of `manage.py` do not need
    sql_backend = LazyModule("celeriac.contrib.django.db.backend")

__all__ = ["KeyField", "PlaceManager", "StateField", "as_django", "aware", "backend", "database"]


def database() -> str:
    """Return the alias of the database with the tables: that of `result_backend`, if it is `django-db://`."""
    url = current_app().conf.result_backend or ""
    return alias_of(url) if url.startswith(f"{SCHEME}://") else DEFAULT_DB_ALIAS


def backend() -> sql_backend.DjangoBackend:
    """Return the backend whose tables these are, even if the app has another one now."""
    app: Any = current_app()
    if isinstance(app.backend, sql_backend.DjangoBackend):
        return app.backend
    return sql_backend.connect(f"{SCHEME}://", clock=app.clock, timeout=app.conf.broker_publish_timeout,
                   result_expires=app.conf.result_expires, codec=app.backend.codec)  # fmt: skip


def as_django(moment: datetime) -> datetime:
    """Return an aware instant as Django has them: without `USE_TZ`, naive in the time zone of the settings."""
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def aware(moment: datetime) -> datetime:
    """Return an instant of Django's with its time zone: that of the settings, if it is naive."""
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment


class KeyField(models.CharField):
    """An id. Unusual ones are kept as their hash (`drivers/sql/keys.py`), and are found by the id all the same."""

    def get_prep_value(self, value: Any) -> Any:
        """Return what the column has. It may be given as it is kept."""
        return key(value) if isinstance(value, str) and value and not is_hash(value) else value


class StateField(models.CharField):
    """A state. Unusual ones are kept as their hash."""

    def get_prep_value(self, value: Any) -> Any:
        """Return what the column has. It may be given as it is kept."""
        return state_key(value) if isinstance(value, str) and value and not is_hash(value) else value


class PlaceManager(models.Manager):
    """Looks into the database of `django-db://`, unless `using` names another."""

    def get_queryset(self) -> Any:
        """Return all rows."""
        found = super().get_queryset()
        return found if self._db else found.using(database())
