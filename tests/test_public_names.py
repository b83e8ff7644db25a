"""Every module says exactly what it offers: `__all__` is complete and true (ruff keeps it sorted)."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

import celeriac

OF_DJANGO = [
    f"celeriac.contrib.django.db.{name}"
    for name in ("admin", "models", "periodic", "periodic_admin", "periodic_form", "periodic_parts", "result_admin",
                 "sent_by")
]
"""Modules with models, which only a Django project can import: `tests/django/suite/test_places.py` checks them."""
NAMES = ["celeriac"] + [
    module.name
    for module in pkgutil.walk_packages(celeriac.__path__, "celeriac.")
    if not module.name.endswith(".__main__") and module.name not in OF_DJANGO
]


class Module(NamedTuple):
    """A module of the package, and its source."""

    module: ModuleType
    tree: ast.Module

    @property
    def offered(self) -> list[str]:
        return getattr(self.module, "__all__", [])


def read(names: list[str]) -> dict[str, Module]:
    """Return modules by their names."""
    found = {}
    for name in names:
        module = importlib.import_module(name)
        found[name] = Module(module, ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8")))
    return found


@pytest.fixture(scope="module")
def modules() -> dict[str, Module]:
    """Every module, read once for all rules."""
    return read(NAMES)


def bound(nodes: list[ast.stmt]) -> set[str]:
    """Return the names that statements bind at the top of a module."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.If | ast.Try):
            found |= bound(node.body) | bound(node.orelse)
        else:
            stored = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
            found.update(part.id for part in stored)
    return found


def test_all_is_exact(modules: dict[str, Module]) -> None:
    faults = []
    for name, (module, tree) in modules.items():
        offered = modules[name].offered
        names = bound(tree.body)
        missing = [item for item in offered if item not in names or not hasattr(module, item)]
        if missing:
            faults.append(f"{name}.__all__ names what is not there: {missing}")
        if len(offered) != len(set(offered)):
            faults.append(f"{name}.__all__ names something twice")
    assert not faults, "\n".join(faults)


def test_every_public_class_and_function_is_offered(modules: dict[str, Module]) -> None:
    """Constants may be a module's own business; what can be called is offered, private, or given to a decorator."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    faults = []
    for name, module in modules.items():
        defined = [node.name for node in module.tree.body if isinstance(node, kinds) and not node.decorator_list]
        left_out = [item for item in defined if not item.startswith("_") and item not in module.offered]
        if left_out:
            faults.append(f"{name}.__all__ leaves out {left_out}")
    assert not faults, "\n".join(faults)


def test_a_name_that_another_module_imports_is_offered_by_the_module_that_defines_it(
    modules: dict[str, Module],
) -> None:
    faults = []
    for name, module in modules.items():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("celeriac."):
                continue
            offered = getattr(importlib.import_module(node.module or ""), "__all__", [])
            faults += [
                f"{name} imports {node.module}.{alias.name}: not offered"
                for alias in node.names
                if f"{node.module}.{alias.name}" not in NAMES and alias.name not in offered
            ]
    assert not faults, "\n".join(faults)


def test_every_module_says_what_it_is(modules: dict[str, Module]) -> None:
    silent = [name for name, found in modules.items() if not found.module.__doc__]
    assert not silent, "\n".join(silent)
