"""The Django app, for `INSTALLED_APPS`."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["CeleriacConfig"]


class CeleriacConfig(AppConfig):
    """`INSTALLED_APPS = [..., "celeriac.contrib.django"]`."""

    name = "celeriac.contrib.django"
    label = "celeriac"
    verbose_name = "Celeriac"
