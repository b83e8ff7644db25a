"""Modules that few programs need: imported when one of their names is first used, and not before.

    if TYPE_CHECKING:
        from celeriac.beat import schedules as scheduling
    else:
        scheduling = LazyModule("celeriac.beat.schedules")

mypy and import-linter read the upper half, so that types are checked and layers kept as for any other import; Python
runs the lower one. `lazy_names` does the same for the names that a package offers. Both are for what is slow or large,
and unused by most callers of tasks or by most workers; `tests/test_imports.py` says what those must not import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["LazyModule", "lazy_names"]


class LazyModule:
    """Stands for a module until it is used. An `ImportError` is raised by that use, as any error of the module."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def __getattr__(self, name: str) -> Any:
        if self._module is None:  # `import_module` lets other threads wait until the module is complete
            self._module = import_module(self._name)
        return getattr(self._module, name)

    def __repr__(self) -> str:
        return f"<LazyModule {self._name}>"


def lazy_names(package: dict[str, Any],
               homes: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:  # fmt: skip
    """Return the functions `__getattr__` and `__dir__` of a package with lazy names (PEP 562).

    `package` is its globals, in which a name is bound on its first use; `homes` are the lazy names by their modules.
    """
    home_of = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        found = package[name] = getattr(import_module(home_of[name]), name)
        return found

    def names() -> list[str]:
        return sorted({*package, *home_of})

    return find, names
