"""The error for a schedule that cannot be."""

from __future__ import annotations

from celeriac.errors import ImproperlyConfigured

__all__ = ["InvalidSchedule"]


class InvalidSchedule(ImproperlyConfigured, ValueError):
    """The schedule is invalid.

    A `ValueError` too: so msgspec, and with it the gate, refuses a stored schedule that is.
    """
