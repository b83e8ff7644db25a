"""Finds the framework that a project is built on, by the settings that its app reads.

`app.config_from_object("django.conf:settings", …)` says that the project is Django's. The module that implements the
port (`ports/framework.py`) is above the app, and its framework is optional: it is imported by name, as adapters are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from celeriac.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from celeriac.ports.framework import Framework

__all__ = ["framework_of"]

FRAMEWORKS = {"django.conf": ("celeriac.contrib.django.framework", "django")}
"""By the module of the settings: the module that has `connect`, and the extra that installs the framework."""


def framework_of(source: Any) -> Framework | None:
    """Return the framework whose settings these are, or None. Raises `ImproperlyConfigured` if it is not installed."""
    name = source if isinstance(source, str) else type(source).__module__
    found = FRAMEWORKS.get(name.partition(":")[0])
    if found is None:
        return None
    module, extra = found
    try:
        framework: Framework = importlib.import_module(module).connect()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("celeriac."):
            raise
        raise ImproperlyConfigured(f"The settings {name!r} need a package that is not installed ({error.name}): "
                                   f"pip install 'celeriac[{extra}]'.") from error  # fmt: skip
    return framework
