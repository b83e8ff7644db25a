"""`django-db://alias`: the result backend of SQL databases, in a database of Django's.

It has connections of its own: what it writes is no part of the transactions of Django, and stays if those are rolled
back. The tables are made by `manage.py migrate` alone. `app/schemes.py` names this module; it is imported when a URL
first has this scheme.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from django.apps import apps
from django.db import connections
from sqlalchemy import Connection, Engine, NullPool

from celeriac.backends.sql import SQLBackend
from celeriac.contrib.django.db.alias import alias_of
from celeriac.contrib.django.db.columns import DjangoColumns
from celeriac.contrib.django.db.place import name_of, place_of
from celeriac.contrib.django.db.values import PREFIX
from celeriac.drivers.registry import Registry
from celeriac.drivers.sql.address import Address
from celeriac.drivers.sql.database import Database
from celeriac.errors import BackendError, BackendUnavailable, ImproperlyConfigured
from celeriac.model.clock import Clock
from celeriac.model.codec import PLAIN_CODEC, Codec

__all__ = ["DjangoBackend", "DjangoDatabase", "connect"]

Result = TypeVar("Result")

APP: Final = "celeriac.contrib.django.db"
ON_COMMIT: Final = "transaction.on_commit(workflow.delay)"


class DjangoDatabase(Database):
    """A database of Django's, and Celeriac's tables in it."""

    def __init__(self, alias: str, timeout: float) -> None:
        self.alias = alias
        self._name = name_of(alias)
        self._place = place_of(alias)
        super().__init__(self._place.url, None, PREFIX, timeout, DjangoColumns(alias))

    def check_transaction(self, what: str) -> None:
        """Raise `BackendError` in a transaction of Django's on SQLite, which has one writer: nobody would ever write.

        `what` says what to do instead.
        """
        if self.address.system == "sqlite" and connections[self.alias].in_atomic_block:
            raise BackendError(f"{self.address}: a transaction of the database {self.alias!r} is open in this thread, "
                               f"and SQLite has one writer at a time. {what}")  # fmt: skip

    def write(self, work: Callable[[Connection], Result]) -> Result:
        """Carry out `work` in a transaction of its own."""
        self.check_transaction(f"Send workflows when it commits: {ON_COMMIT}.")
        try:
            return super().write(work)
        except BackendUnavailable as error:
            if self.address.system != "sqlite":
                raise
            raise BackendUnavailable(f"{error} If a transaction of Django's is open around this call, it is what holds "
                                     f"the file: make the call when it commits, {ON_COMMIT}.") from error  # fmt: skip

    def _checked_engine(self) -> Engine:
        if self._name != name_of(self.alias):  # it is of tests now, or no longer
            with self._lock:
                old, self._engine, self._reading = self._engine, None, None
                self._is_checked = False
            if old is not None:
                old.dispose()
        return super()._checked_engine()

    def _new_engine(self) -> Engine:
        self._name, self._place = name_of(self.alias), place_of(self.alias)
        self.address, self.arguments = Address(self._place.url), self._place.arguments
        return super()._new_engine()

    def _pool(self) -> dict[str, Any]:
        """Return the options of the pool: none in tests, as Django drops their database in the end."""
        return {"poolclass": NullPool} if self._place.is_test else super()._pool()

    def _make_tables(self, connection: Connection, before: int | None) -> None:
        """Raise `BackendError`: Django's migrations make the tables."""
        missing = "no tables of Celeriac's" if before is None else f"Celeriac's tables in their old version {before}"
        database = "" if self.alias == "default" else f" --database={self.alias}"
        raise BackendError(f"{self.address} has {missing}: call `manage.py migrate{database}`.")


class DjangoBackend(SQLBackend):
    """Outcomes by task id, in tables of Django's database."""

    comes_first = True  # people change schedules in Django's admin
    database: DjangoDatabase

    def __repr__(self) -> str:
        return f"<DjangoBackend {self.database.alias}: {self.database.address}>"


databases = Registry(DjangoDatabase)


def connect(url: str, *, clock: Clock, timeout: float, result_expires: float | None,
            codec: Codec = PLAIN_CODEC) -> DjangoBackend:  # fmt: skip
    """Return the backend for a `django-db://` URL. Raises `ImproperlyConfigured`."""
    if apps.apps_ready and not apps.is_installed(APP):
        raise ImproperlyConfigured(f"django-db:// needs {APP!r} in INSTALLED_APPS, and then `manage.py migrate`.")
    return DjangoBackend(databases.of(alias_of(url), timeout), clock, result_expires, codec)
