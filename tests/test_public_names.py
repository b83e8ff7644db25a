"""Every module says exactly what it offers: `__all__` is complete and true (ruff keeps it sorted)."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
from pathlib import Path

import pytest

import celeriac

OF_DJANGO = [
    f"celeriac.contrib.django.db.{name}"
    for name in ("admin", "models", "periodic", "periodic_admin", "periodic_form", "periodic_parts", "result_admin",
                 "sent_by")
]
"""Modules with models, which only a Django project can import: `tests/django/suite/test_places.py` checks them."""
MODULES = ["celeriac"] + [
    module.name
    for module in pkgutil.walk_packages(celeriac.__path__, "celeriac.")
    if not module.name.endswith(".__main__") and module.name not in OF_DJANGO
]


def parsed(name: str) -> ast.Module:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


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


@pytest.mark.parametrize("name", MODULES)
def test_all_is_exact(name: str) -> None:
    module = importlib.import_module(name)
    offered = getattr(module, "__all__", [])
    names = bound(parsed(name).body)
    missing = [item for item in offered if item not in names or not hasattr(module, item)]
    assert missing == [], f"{name}.__all__ names what is not there: {missing}"
    assert len(offered) == len(set(offered)), f"{name}.__all__ names something twice"


@pytest.mark.parametrize("name", MODULES)
def test_every_public_class_and_function_is_offered(name: str) -> None:
    """Constants may be a module's own business; what can be called is offered, private, or given to a decorator."""
    offered = getattr(importlib.import_module(name), "__all__", [])
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    defined = [node.name for node in parsed(name).body if isinstance(node, kinds) and not node.decorator_list]
    left_out = [item for item in defined if not item.startswith("_") and item not in offered]
    assert left_out == [], f"{name}.__all__ leaves out {left_out}"


@pytest.mark.parametrize("name", MODULES)
def test_a_name_that_another_module_imports_is_offered_by_the_module_that_defines_it(name: str) -> None:
    for node in ast.walk(parsed(name)):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("celeriac."):
            continue
        origin = importlib.import_module(node.module or "")
        offered = getattr(origin, "__all__", [])
        for alias in node.names:
            is_module = f"{node.module}.{alias.name}" in MODULES
            assert is_module or alias.name in offered, f"{name} imports {node.module}.{alias.name}: not offered"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name: str) -> None:
    assert importlib.import_module(name).__doc__
