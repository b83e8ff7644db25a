"""The titles of the worker's processes, as `ps` and `top` show them, if the package setproctitle is installed.

    celeriac: worker shop@host.4242
    celeriac: fork server of shop@host.4242
    celeriac: shop.add, child of shop@host.4242      a child that runs a plain function; `idle` between two of them
    celeriac: coroutines, child of shop@host.4242

Setting a title takes a microsecond or two. A child does so when it begins to wait, and when it runs another task than
the one before.
"""

from __future__ import annotations

try:
    from setproctitle import setproctitle
except ImportError:  # an extra
    setproctitle = None  # type: ignore[assignment]

__all__ = ["ChildTitle", "set_title"]


def set_title(title: str) -> None:
    """Set the title of this process."""
    if setproctitle is not None:
        setproctitle(f"celeriac: {title}")


class ChildTitle:
    """The title of a child of a worker, which shows what it runs."""

    def __init__(self, worker: str) -> None:
        self.is_shown = setproctitle is not None
        self._worker = worker
        self._shown = ""

    def show(self, what: str) -> None:
        """Show what the child runs."""
        if what != self._shown:
            self._shown = what
            set_title(f"{what}, child of {self._worker}")
