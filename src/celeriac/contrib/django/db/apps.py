"""The Django app with the models, for `INSTALLED_APPS`."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["CeleriacDatabaseConfig"]


class CeleriacDatabaseConfig(AppConfig):
    """`INSTALLED_APPS = [..., "celeriac.contrib.django.db"]`."""

    name = "celeriac.contrib.django.db"
    label = "celeriac_db"
    verbose_name = "Celeriac"
    default_auto_field = "django.db.models.BigAutoField"
