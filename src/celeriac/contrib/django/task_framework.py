"""Django's task framework: `django.tasks` of Django 6.0 and later, else the package `django-tasks`, where installed.

Both have the same names, but for two exceptions. `backend.py` and `running.py` take them from here.
"""

from __future__ import annotations

import importlib
from typing import Any

import django
from django.utils.module_loading import import_string

__all__ = ["NAME", "backends", "base", "exceptions", "framework", "normalize_json", "signals"]

NAME = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"


def _part(name: str) -> Any:
    return importlib.import_module(f"{NAME}{name}")


framework = _part("")
base = _part(".base")
backends = _part(".backends.base")
exceptions = _part(".exceptions")
signals = _part(".signals")
normalize_json = import_string(
    "django.utils.json.normalize_json" if NAME == "django.tasks" else f"{NAME}.utils.normalize_json"
)
