"""The environment in which tests start processes."""

from __future__ import annotations

import os

__all__ = ["without_settings"]


def without_settings() -> dict[str, str]:
    """Return the variables of this process, but for settings of Celeriac."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
